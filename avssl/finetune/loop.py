"""Training one classifier, from its first step or where it was stopped to its last.

Letters: B batch, C classes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from avssl.errors import UserError
from avssl.finetune.augment import augment
from avssl.finetune.batches import Clips, nothing_read
from avssl.finetune.config import Finetune, Optimisation, Steps
from avssl.finetune.model import Classifier
from avssl.train import checkpoint
from avssl.train.checkpoint import Progress
from avssl.train.metrics import MetricsWriter
from avssl.train.optimizer import (
    clip_gradients,
    learning_rate,
    make_optimizer,
    peak_lr,
    set_learning_rate,
)
from avssl.train.progress import Job, Reporter, now
from avssl.train.run_folder import RunFolder
from avssl.train.signals import StopRequest


@dataclass
class Trained:
    """A classifier after its last step, and what it took."""

    classifier: Classifier
    steps: int
    seconds: float
    replaced: int  # unreadable clips that others stood in for, in this process


def train(
    classifier: Classifier,
    clips: Clips,
    folder: RunFolder,
    *,
    config: Finetune,
    part: str,
    seed: int,
    device: torch.device,
    stop: StopRequest,
) -> Trained | None:
    """Train a classifier; None when asked to end, after a checkpoint was written.

    Args:
        classifier: with its first weights.
        clips: what to train on.
        folder: of this part; metrics and checkpoints go there.
        config: `train`, `augment` and `mask` count.
        part: its name.
        seed: of the order, the augmentation and the masks.
        device: where to train.
        stop: truthy once the process was asked to end.

    Raises:
        UserError: the loss is not finite, or the clips cannot be read.
    """
    settings = config.train
    steps = settings.epochs * clips.per_epoch
    classifier.to(device).train()
    optimizer = make_optimizer(classifier.graph, settings.optimizer())
    state = nn.ModuleDict({"model": classifier.graph})
    average = None
    if settings.average_from is not None:
        average = state["average"] = AveragedModel(classifier.graph).requires_grad_(False)
    store = folder.checkpoints(part)
    path, progress, damaged = checkpoint.newest(store)
    for sentence in damaged:
        print(f"warning: {part}: {sentence} It is skipped.", file=sys.stderr, flush=True)
    start, earlier = 0, 0.0
    if path is not None and progress is not None:
        if progress.clips != clips.about:
            raise UserError(
                f"{part} was started on the clips {progress.clips} and finds {clips.about} now "
                "(number and checksum): bring these back, or give another folder with run=..."
            )
        checkpoint.load(path, state, optimizer)
        start, earlier = progress.step, progress.seconds
    folder.keep_metrics(part, start)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    peak = peak_lr(settings.optimizer(), clips.data.batch)
    job = Job(part, start, steps, clips.data.batch, settings.log_every)
    began, replaced = now() - earlier, 0

    def save(done: int) -> None:
        where = Progress(part, done, steps, False, now() - began, clips.about)
        checkpoint.save(store, where, state, optimizer, keep=1)

    with (
        MetricsWriter(folder, part, step=start, active=True) as writer,
        Reporter(job, quiet=False) as report,
    ):
        batches = iter(clips.batches(seed=seed, start=start, steps=steps))
        for step in range(start, steps):
            asked = now()
            batch = _next(batches, stop)
            if batch is None:
                save(step)
                return None
            arrived = now()
            rate = rate_at(step, settings, peak=peak, per_epoch=clips.per_epoch, steps=steps)
            torch.manual_seed(seed + step)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = loss_of(classifier, batch, config, recipes=clips.data.inputs)
            set_learning_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norms = clip_gradients(classifier.graph, settings.clip)
            kind = "binary_cross_entropy" if config.labels == "multi" else "cross_entropy"
            figures = {"loss": loss.item(), f"loss/{kind}": loss.item(), "lr": rate}
            figures |= {f"grad/{name}": norm.item() for name, norm in norms.items()}
            _must_be_finite(figures, part, step)
            optimizer.step()
            ended, replaced = now(), replaced + int(batch["replaced"].sum())
            times = {"step_ms": 1000 * (ended - asked), "data_ms": 1000 * (arrived - asked)}
            writer.write(step + 1, figures, times=times, bad=batch["failures"])
            report.step(step + 1, figures, seconds=ended - asked, waited=arrived - asked)
            epoch, inside = divmod(step + 1, clips.per_epoch)
            if inside == 0 and average is not None and epoch >= (settings.average_from or 0):
                average.update_parameters(classifier.graph)
            due = settings.save_every and inside == 0 and epoch % settings.save_every == 0
            if due or step + 1 == steps:  # measuring may be stopped, too
                save(step + 1)
    if average is not None:
        classifier.graph.load_state_dict(average.module.state_dict())
    return Trained(classifier, steps, now() - began, replaced)


def loss_of(
    classifier: Classifier, batch: Mapping[str, Any], config: Finetune, *, recipes: Any
) -> Tensor:
    """The loss of one batch, with augmentation, masks and smoothed targets; a scalar."""
    target: Tensor = batch["target"]  # [B, C]
    inputs = {name: batch[name] for name in recipes}
    inputs, target = augment(inputs, target, recipes=recipes, config=config.augment)
    keep = classifier.masks(len(target), config.mask, target.device)
    logits = classifier(inputs, keep)  # [B, C]
    target = smooth(target, config.train.label_smoothing)
    if config.labels == "multi":
        return F.binary_cross_entropy_with_logits(logits.float(), target)
    return F.cross_entropy(logits.float(), target)


def smooth(target: Tensor, share: float) -> Tensor:
    """Give a share of the target to all classes alike: (1 - s) y + s / C, as CAV-MAE does for cross
    entropy and binary cross entropy. target: [B, C]."""
    return (1 - share) * target + share / target.shape[1] if share else target


def rate_at(step: int, settings: Optimisation, *, peak: float, per_epoch: int, steps: int) -> float:
    """The learning rate of a step, counted from 0."""
    warmup = min(round(settings.warmup * per_epoch), steps)
    schedule = settings.schedule
    if isinstance(schedule, Steps):
        if step < warmup:
            return peak * (step + 1) / warmup
        past = step // per_epoch - schedule.start  # epochs done since the first fall
        falls = past // schedule.every + 1 if past >= 0 else 0
        return peak * schedule.factor**falls
    return learning_rate(step, peak=peak, minimum=schedule.min_lr, warmup=warmup, steps=steps)


@torch.no_grad()
def scores(
    classifier: Classifier,
    batches: Iterator[dict[str, Any]],
    *,
    several: bool,
    views: int,
    bf16: bool,
) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
    """Probabilities of held-out clips, on complete inputs in eval mode, as means over their views.

    Args:
        batches: of views, a clip's one after the other.
        several: clips may have several labels: sigmoid in place of softmax.
        views: of each clip; one that cannot be read in all of them does not count.

    Returns:
        float64 [N, C] and targets [N, C] on the CPU, and what could not be read.

    Raises:
        UserError: nothing could be read.
    """
    classifier.eval()
    parts, targets, rows, failures = [], [], [], []
    for batch in batches:
        failures += batch["failures"]
        target = batch["target"]  # [B, C]
        if not len(target):
            continue
        with torch.autocast(target.device.type, dtype=torch.bfloat16, enabled=bf16):
            out = classifier(batch)
        logits = out.double().cpu()  # [B, C]
        parts.append(logits.sigmoid() if several else logits.softmax(1))
        targets.append(target.cpu())
        rows.append(batch["clip"].cpu())
    failures = list(dict.fromkeys(failures))
    if not parts:
        raise nothing_read("held-out clips", failures)
    _, clip, count = torch.cat(rows).unique_consecutive(return_inverse=True, return_counts=True)
    every = torch.cat(parts)  # [views, C]
    total = every.new_zeros(len(count), every.shape[1]).index_add_(0, clip, every)  # [N, C]
    first = count.cumsum(0) - count  # [N]
    whole = count == views
    if not whole.any():
        raise nothing_read("held-out clips", failures)
    return total[whole] / views, torch.cat(targets)[first][whole], failures


def _next(batches: Iterator[dict[str, Any]], stop: StopRequest) -> dict[str, Any] | None:
    """The next batch; None when asked to end, which loader processes may have heard as well."""
    if stop:
        return None
    try:
        return next(batches)
    except UserError:
        if stop:
            return None
        raise


def _must_be_finite(figures: Mapping[str, float], part: str, step: int) -> None:
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"{part}: {' and '.join(bad)} is not finite at step {step + 1}: lower train.lr, "
            "lengthen train.warmup or set train.clip"
        )
