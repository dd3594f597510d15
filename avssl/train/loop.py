"""The training loop: stage after stage, resumed wherever the last process ended."""

from __future__ import annotations

import functools
import sys
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.ops.attention import attention_backend
from avssl.train import checkpoint, health, probes
from avssl.train.checkpoint import Progress
from avssl.train.flops import flops_per_clip, peak_flops
from avssl.train.metrics import MetricsWriter
from avssl.train.optimizer import make_optimizer, peak_lr, trained_parameters
from avssl.train.parallel import World, spread
from avssl.train.precision import in_bf16, teacher_dtype
from avssl.train.progress import Job, Reporter, now
from avssl.train.run_folder import RunFolder
from avssl.train.step import Recipe, train_step
from avssl.train.teacher_cache import TeacherCache, open_cache
from avssl.train.weights import stage_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from avssl.train.clips import Clips
    from avssl.train.config import TrainConfig
    from avssl.train.experiment import Instance, LoadedExperiment
    from avssl.train.signals import StopRequest


GO, STOP, FAILED = 0, 1, 2  # what a process says about its next batch


@dataclass(frozen=True)
class Session:
    """What every stage of a run shares."""

    experiment: LoadedExperiment
    folder: RunFolder
    clips: Clips
    world: World
    stop: StopRequest


@dataclass
class Stage:
    """One stage instance, ready to train.

    Attributes:
        graph, model: the graph, and the same as it is called (wrapped for DDP).
        start: steps done by earlier processes; `seconds` is the time they took.
        cache: targets of frozen teachers on disk.
    """

    name: str
    graph: Graph
    model: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    start: int
    seconds: float
    cache: TeacherCache | None


def run_stages(session: Session) -> bool:
    """Train every stage that is not finished; False when the run was asked to end before."""
    for instance in session.experiment.instances:
        steps = _finished(session, instance)
        if steps is not None:
            _say(session.world, f"{instance.name}: finished earlier ({steps} steps)")
        elif session.world.most(bool(session.stop)) or not train_stage(session, instance):
            return False
    return True


def train_stage(session: Session, instance: Instance) -> bool:
    """Train one stage instance from where it stands to its end; False when asked to end before.

    Args:
        session: the run.
        instance: what to train.
    """
    world, folder = session.world, session.folder
    stage = prepare(session, instance)
    world.first(lambda: folder.keep_metrics(stage.name, stage.start))
    _say(world, describe(stage, world, compiled=session.experiment.config.train.compile))
    batches = session.clips.batches(
        seed=stage.recipe.seed,
        start=stage.start,
        steps=stage.recipe.steps,
        inputs=stage.graph.inputs,
    )
    with ExitStack() as stack:
        if stage.cache is not None:
            stack.callback(stage.cache.store.close)
        writer = stack.enter_context(
            MetricsWriter(folder, stage.name, step=stage.start, active=world.main)
        )
        report = stack.enter_context(Reporter(_job(session, stage), quiet=not world.main))
        return _steps(session, stage, iter(batches), writer, report)


def _steps(
    session: Session,
    stage: Stage,
    batches: Iterator[dict[str, Any]],
    writer: MetricsWriter,
    report: Reporter,
) -> bool:
    """The loop itself: batch, step, probe, checkpoint."""
    config, world, steps = session.experiment.config, session.world, stage.recipe.steps
    began = now() - stage.seconds
    measure = functools.partial(probes.online, session, stage.graph, stage.name)
    clips = session.clips.fingerprint

    def save(done: int) -> None:
        progress = Progress(stage.name, done, steps, done == steps, now() - began, clips)
        checkpoint.save(
            session.folder.checkpoints(stage.name),
            progress,
            stage.graph,
            stage.optimizer,
            keep=config.train.keep,
            every=config.train.save_every,
        )

    if stage.start == 0:
        _probe(writer, report, 0, measure(0))
    silent: set[str] = set()  # parameters without a gradient so far
    for step in range(stage.start, steps):
        before = health.before_step(stage.graph) if step == 0 else None
        asked = now()
        batch = next_batch(session, batches)
        arrived = now()
        if batch is None:
            if step > stage.start and step % config.train.save_every:
                save(step)
            report.say(
                f"{stage.name}: ended at step {step}. The same command continues from there."
            )
            return False
        inputs = to_device(batch, stage.graph, world.device)
        metrics = train_step(
            stage.graph,
            inputs,
            step=step,
            model=stage.model,
            optimizer=stage.optimizer,
            recipe=stage.recipe,
            world=world,
            targets=_targets(stage, inputs, batch, report),
        )
        ended = now()
        if before is not None:
            momenta = {name: metrics[f"momentum/{name}"] for name in stage.graph.teachers}
            for sentence in health.after_step(stage.graph, before, momenta):
                report.say(f"warning: {stage.name}: {sentence}")
        if step == 0:
            silent = health.without_gradient(stage.graph)
        elif silent:
            silent &= health.without_gradient(stage.graph)
        if silent and step + 1 == min(health.STEPS, steps):
            report.say(f"warning: {stage.name}: {health.untouched(silent, step + 1)}")
            silent = set()
        times = {"step_ms": 1000 * (ended - asked), "data_ms": 1000 * (arrived - asked)}
        bad = world.gather(batch["failures"])
        metrics["unreadable"] = float(len(bad))
        writer.write(step + 1, metrics, times=times, bad=bad)
        for path, reason in bad[:3]:
            report.say(f"warning: {path} was replaced by another clip: {reason}")
        report.step(step + 1, metrics, seconds=ended - asked, waited=arrived - asked)
        last = step + 1 == steps
        if last or (config.probe.every and (step + 1) % config.probe.every == 0):
            _probe(writer, report, step + 1, measure(step + 1))
        if last or (step + 1) % config.train.save_every == 0:
            save(step + 1)
    return True


def _targets(
    stage: Stage, inputs: dict[str, Tensor], batch: dict[str, Any], report: Reporter
) -> dict[str, Tensor] | None:
    """What the teacher cache knows of a batch; None for a stage without one."""
    if stage.cache is None:
        return None
    damaged = stage.cache.store.damaged
    targets = stage.cache.targets(inputs, batch["clip"])
    if found := stage.cache.store.damaged - damaged:
        report.say(
            f"warning: {stage.name}: {found} rows of {stage.cache.store.folder} were damaged and "
            "are made anew"
        )
    return targets


def next_batch(session: Session, batches: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """The next batch, or None when the run was asked to end; all processes get the same answer.

    A signal that ends a run often reaches its loader processes as well: an error of the loader
    counts as the end then.

    Raises:
        UserError: the data cannot be read, here or on another process.
    """
    batch, error = None, None
    if not session.stop:
        try:
            batch = next(batches)
        except UserError as found:
            error = found
    state = GO if batch is not None else STOP if session.stop else FAILED
    worst = session.world.most(state)
    if worst == FAILED:
        raise error or UserError("another process could not read its data; see its message.")
    return batch if worst == GO else None


def prepare(session: Session, instance: Instance) -> Stage:
    """Build a stage's graph and optimizer, spread them over the processes, and load its newest
    checkpoint."""
    experiment, world = session.experiment, session.world
    config = experiment.config.train
    weights = functools.cache(functools.partial(stage_weights, session.folder.path))
    seed = stage_seed(experiment.config.seed, instance.name)
    graph = Graph.from_spec(
        instance.spec, references=experiment.references(instance, weights), seed=seed
    )
    model = spread(graph, world, config)
    graph.train()
    optimizer = make_optimizer(graph, config)
    path, progress = _newest(session, instance.name, tell=True)
    for note in graph.notes if path is None else ():
        _say(world, f"{instance.name}: {note}")
    recipe = _recipe(session, instance, seed)
    graph.teacher_dtype = teacher_dtype(config, world.device)
    if path is not None and progress is not None:
        if progress.clips != session.clips.fingerprint:
            raise UserError(
                f"{instance.name} was started on the train clips {progress.clips} and finds "
                f"{session.clips.fingerprint} now (number, and checksum of the paths and of "
                "transcripts that are read): bring the earlier clips back, start as many processes "
                "as before where these are named, or give another run folder with run=..."
            )
        checkpoint.load(path, graph, optimizer)
    start, seconds = (progress.step, progress.seconds) if progress else (0, 0.0)
    cache = open_cache(experiment, instance, graph, recipe, session.clips, world)
    if cache is not None and cache.warning:
        _say(world, f"warning: {instance.name}: {cache.warning}")
    return Stage(instance.name, graph, model, optimizer, recipe, start, seconds, cache)


def _recipe(session: Session, instance: Instance, seed: int) -> Recipe:
    config: TrainConfig = session.experiment.config.train
    per_epoch = session.clips.steps_per_epoch
    steps = instance.config.steps or max(1, round(per_epoch * (instance.config.epochs or 0)))
    return Recipe(
        seed=seed,
        steps=steps,
        warmup=min(round(config.warmup * per_epoch), steps),
        peak=peak_lr(config, session.experiment.config.data.batch),
        minimum=config.min_lr,
        clip=config.clip,
        bf16=in_bf16(config, session.world.device),
        log_every=config.log_every,
    )


def _job(session: Session, stage: Stage) -> Job:
    config, world = session.experiment.config, session.world
    peak = peak_flops(world.device) if stage.recipe.bf16 else None
    known = stage.cache.keys if stage.cache is not None else ()
    fixed = config.data.lengths is None  # else clips take as much as they are long
    return Job(
        stage=stage.name,
        start=stage.start,
        steps=stage.recipe.steps,
        batch=session.clips.clips_per_step,
        every=config.train.log_every,
        flops=flops_per_clip(stage.graph.spec, known) if peak and world.main and fixed else 0.0,
        peak=(peak or 0.0) * world.size,
    )


def stage_seed(seed: int, name: str) -> int:
    """The seed of a stage instance: a repeated stage starts from other weights and sees other
    crops."""
    return zlib.crc32(f"{seed}/{name}".encode())


def to_device(batch: dict[str, Any], graph: Graph, device: torch.device) -> dict[str, Tensor]:
    """The inputs of the graph, moved to where it lives."""
    return {
        name: batch[name].to(device, non_blocking=True) for name in graph.inputs if name in batch
    }


def describe(stage: Stage, world: World, *, compiled: bool) -> str:
    """One line on what is about to be trained."""
    trained = sum(parameter.numel() for _, _, parameter in trained_parameters(stage.graph))
    total = sum(parameter.numel() for parameter in stage.graph.parameters())
    where = (
        f"{world.size} x {world.device.type} ({world.mode})"
        if world.size > 1
        else world.device.type
    )
    precision = "bf16 autocast" if stage.recipe.bf16 else "fp32"
    if stage.graph.teacher_dtype is not None:
        precision += f", teachers {'bf16' if stage.graph.teacher_dtype.itemsize == 2 else 'fp32'}"
    attention = str(attention_backend())
    if attention_backend().name == "xformers" and (compiled or not stage.recipe.bf16):
        why = "torch.compile traces it" if compiled else "xformers takes no fp32"
        attention = f"attention: sdpa ({why})"
    resumed = f", continuing at step {stage.start}" if stage.start else ""
    return (
        f"{stage.name}: {trained / 1e6:.2f} M trained of {total / 1e6:.2f} M parameters, "
        f"{stage.recipe.steps} steps ({stage.recipe.warmup} warm-up), "
        f"peak lr {stage.recipe.peak:.2e}, {precision} on {where}, "
        f"{attention}{resumed}"
    )


def _newest(
    session: Session, stage: str, *, tell: bool = False
) -> tuple[Path | None, Progress | None]:
    """The newest intact checkpoint of a stage, as rank 0 sees it.

    tell: name damaged ones.
    """
    folder, world = session.folder.checkpoints(stage), session.world
    path: Path | None = None
    if world.main:
        path, _, damaged = checkpoint.newest(folder)
        for sentence in damaged if tell else ():
            print(f"warning: {stage}: {sentence} It is skipped.", file=sys.stderr, flush=True)
    name = world.agree(path.name if path else None)
    return (folder / name, checkpoint.read_state(folder / name)[0]) if name else (None, None)


def _finished(session: Session, instance: Instance) -> int | None:
    """Steps of a stage instance if it is finished."""
    _, progress = _newest(session, instance.name)
    return progress.step if progress is not None and progress.finished else None


def _probe(writer: MetricsWriter, report: Reporter, step: int, figures: dict[str, float]) -> None:
    if figures:
        writer.write(step, figures)
        report.say(
            f"{report.job.stage} step {step} probe  "
            + "  ".join(f"{k} {v:.3f}" for k, v in figures.items())
        )


def _say(world: World, text: str) -> None:
    if world.main:
        print(text, flush=True)
