"""A fine-tuning from its file to its results: every seed and fold, each in a folder of its own.

::

    finetune.yaml   the file with defaults and overrides merged in, the model and the clips
    results.json  results.md
    seed0-fold1/    results.json, metrics.jsonl, tensorboard/, encoder.yaml with graph files and
                    model.safetensors, and checkpoints/ until it is finished
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import avssl
from avssl.data.config import DataConfig, FramesConfig
from avssl.data.manifest import Manifest
from avssl.data.source import open_source
from avssl.data.usable import extent, unusable
from avssl.encoders.load import Encoders
from avssl.errors import UserError
from avssl.eval.score import never_right
from avssl.eval.sides import rows_in
from avssl.files import write_whole
from avssl.finetune.batches import Clips, Memory
from avssl.finetune.build import build_classifier
from avssl.finetune.claim import claim, fingerprint
from avssl.finetune.clips import TRAIN, Targets, folds_of, with_fold
from avssl.finetune.config import Finetune
from avssl.finetune.loop import scores, train
from avssl.finetune.read import read_data, read_file
from avssl.finetune.results import FIGURES, measure, summary, table
from avssl.finetune.store import RESULTS, write_classifier
from avssl.train.parallel import World, share_cores
from avssl.train.progress import clock, now
from avssl.train.run_folder import RunFolder
from avssl.train.signals import StopRequest

SPARE = 0.1  # s that a clip in memory may be longer than the window: no place to choose from
FEW = 0.05  # share of longer clips whose other places are not missed


@dataclass(frozen=True)
class Part:
    """One seed and fold."""

    seed: int
    fold: str | None

    @property
    def name(self) -> str:
        return f"seed{self.seed}" if self.fold is None else f"seed{self.seed}-fold{self.fold}"

    @property
    def start(self) -> int:
        """The seed of fresh weights, order, augmentation and masks."""
        return zlib.crc32(f"{self.seed}/{self.fold}".encode())


@dataclass(frozen=True)
class Job:
    """What all parts share."""

    config: Finetune
    data: DataConfig
    av: Encoders
    manifest: Manifest
    folds: Mapping[str | None, Manifest]  # as `with_fold` gives them
    targets: Targets
    device: torch.device


def finetune(
    model: str | os.PathLike[str],
    *,
    source: str,
    path: Path,
    overrides: Sequence[str],
    stage: str | None,
    layout: str | None,
    allow: Sequence[str],
) -> dict[str, Any]:
    """Arguments, result and errors as of `avssl.finetune.run`; `path` is the file."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("fine-tuning runs in one process: start it without torchrun")
    config, document = read_file(path, overrides)
    device = _device(config.train.device)
    av = avssl.load(model, stage=stage, layout=layout, allow=allow)
    encoder = av[config.encoder]
    data = read_data(document, av.data(source, [config.encoder]))
    _check_pictures(config, data)
    share_cores(World(0, 1, device, "single"), 0 if config.in_memory else data.workers)
    manifest = open_source(data)
    folds = {fold: with_fold(manifest, config, fold) for fold in folds_of(manifest, config)}
    if config.in_memory:
        _check_memory(config, data, folds.values())
    targets = Targets(manifest, several=config.labels == "multi")
    job = Job(config, data, av, manifest, folds, targets, device)
    about = {
        "name": config.name,
        "model": av.name,
        "encoder": config.encoder,
        "fingerprint": encoder.fingerprint,
        "from_scratch": config.from_scratch,
        "source": _portable(source, config.run),
        "classes": len(targets.classes),
        "clips": fingerprint(manifest),
    }
    folder = Path(config.run).expanduser()
    with RunFolder(folder).held():
        claim(folder, config, data, about)
        parts = [Part(seed, fold) for seed in config.seeds for fold in folds]
        found = list(_do(job, parts, folder))
        whole = {"about": about, "summary": summary(found), "parts": found}
        write_whole(folder / RESULTS, json.dumps(whole, indent=1) + "\n")
        write_whole(folder / "results.md", table(whole))
    return whole


def _do(job: Job, parts: Sequence[Part], folder: Path) -> Iterator[dict[str, Any]]:
    """The results of each part, one after the other; those of finished ones are read."""
    memory, took = None, []
    for number, part in enumerate(parts, 1):
        place = folder / part.name / RESULTS
        if place.is_file():
            print(f"{part.name}: finished earlier", flush=True)
            yield _read(place)
            continue
        if job.config.in_memory and memory is None:
            memory = Memory(job.manifest, job.data, job.device)
            _warn(list(memory.failures.values()))
        began = now()
        result = _one(job, part, RunFolder(folder / part.name), memory)
        took.append(now() - began)
        shown = ", ".join(f"{FIGURES[n]} {100 * result[n]:.1f}" for n in FIGURES if n in result)
        left = clock(sum(took) / len(took) * (len(parts) - number))
        print(f"{part.name}: {shown}; {number} of {len(parts)} done, {left} left", flush=True)
        yield result


def _one(job: Job, part: Part, folder: RunFolder, memory: Memory | None) -> dict[str, Any]:
    """Train and measure one part."""
    config, device = job.config, job.device
    manifest = job.folds[part.fold]
    clips = Clips(manifest, job.data, job.targets, config, memory=memory, device=device)
    classifier = build_classifier(
        job.av[config.encoder],
        job.av.roles,
        job.data.fixed_inputs,
        config=config,
        classes=len(job.targets.classes),
        seed=part.start,
    )
    for dataset in (clips.train, clips.held_out):
        if dataset.left_out:
            print(dataset.describe(), flush=True)
    if clips.unknown:
        print(f"{part.name}: {never_right(clips.unknown, len(clips.test_rows))}", flush=True)
    folder.path.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop:
        trained = train(
            classifier,
            clips,
            folder,
            config=config,
            part=part.name,
            seed=part.start,
            device=device,
            stop=stop,
        )
    if trained is None:
        print(f"{part.name}: stopped. The same command goes on from there.", flush=True)
        raise KeyboardInterrupt
    bf16 = config.train.precision == "bf16" or (
        config.train.precision == "auto" and device.type == "cuda"
    )
    several = config.labels == "multi"
    found, targets, failures = scores(
        classifier, clips.test_batches(), several=several, views=len(config.test), bf16=bf16
    )
    _warn(failures)
    figures = measure(found, targets, job.targets.classes, several=several)
    result = {
        "seed": part.seed,
        "fold": part.fold,
        "encoder": config.encoder,
        "several": several,
        "train_clips": len(clips.train_rows),
        "unknown": clips.unknown,
        **figures,
        "steps": trained.steps,
        "seconds": round(trained.seconds, 1),
        "left_out": len(clips.train.left_out) + len(clips.held_out.left_out),
        "replaced_in_training": trained.replaced,
        "unreadable": failures if memory is None else memory.failures_of(clips.held_out.rows),
    }
    write_classifier(classifier, job.av, folder.path, config=config, data=job.data)
    write_whole(folder.path / RESULTS, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return result


def _read(place: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(place.read_text(encoding="utf-8")))
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{place} is damaged: remove it and its folder to do it again") from None


def _warn(failures: Sequence[tuple[str, str]]) -> None:
    for path, reason in failures[:10]:
        print(f"warning: {path} is left out: {reason}", flush=True)
    if len(failures) > 10:
        print(f"warning: and {len(failures) - 10} more", flush=True)


def _device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("train.device is cuda, but there is no CUDA device: set it to auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def _check_pictures(config: Finetune, data: DataConfig) -> None:
    """Augmentation of pictures needs pictures, and cutting them would leave the sound behind."""
    other = [name for name, item in data.inputs.items() if not isinstance(item, FramesConfig)]
    if config.augment.cutmix is not None and other:
        raise UserError(
            f"augment.cutmix pastes pictures, and {config.encoder} reads {other[0]!r}, which it "
            "would leave as it is: set augment.cutmix=null"
        )
    if config.augment.erase and len(other) == len(data.inputs):
        raise UserError(
            f"augment.erase is for pictures, and {config.encoder} reads none: set augment.erase=0"
        )


_CHANGING = "shift gain flip short_side area scales jitter grey blur solarise randaugment".split()


def _check_memory(config: Finetune, data: DataConfig, folds: Iterable[Manifest]) -> None:
    """Clips that are read once look the same every time: refuse what would be random in reading."""
    instead = "set in_memory=false to read clips each time"
    if len(config.test) > 1:
        raise UserError(
            f"in_memory reads each clip once, but test asks for {len(config.test)} views of each: "
            f"{instead}"
        )
    if config.train.repeats > 1:
        raise UserError(
            f"in_memory reads each clip once, but train.repeats = {config.train.repeats} reads it "
            f"more often in each batch: {instead}"
        )
    for name, recipe in data.inputs.items():
        wanted = [key for key in _CHANGING if getattr(recipe, key, 0)]
        if getattr(recipe, "sampling", "window") != "window":
            wanted.append("sampling")
        if wanted:
            raise UserError(
                f"in_memory reads each clip once, but data.inputs.{name}.{wanted[0]} changes it "
                f"every time: turn it off, or {instead}"
            )
        seconds = getattr(recipe, "seconds", None)
        if seconds is not None and seconds < data.window:
            raise UserError(
                f"in_memory reads each clip once, but data.inputs.{name}.seconds = {seconds:g} "
                f"takes pictures from another place of the window every time: {instead}, or "
                f"data.inputs.{name}.seconds=null to spread them over the window"
            )
    trained = {row: manifest.clips[row] for manifest in folds for row in rows_in(manifest, TRAIN)}
    lengths = [
        (extent(clip, video=data.needs_video)[1], clip.path)
        for clip in trained.values()
        if not unusable(clip, audio=data.needs_audio, video=data.needs_video)
    ]
    longer = [item for item in lengths if item[0] > data.window + SPARE]
    if not longer:
        return
    seconds, path = longer[0]
    found = (
        f"in_memory reads each clip once, but {len(longer)} of {len(lengths)} clips to train on "
        f"are longer than the window of {data.window:g} s, such as {path} with {seconds:.2f} s"
    )
    if len(longer) > FEW * len(lengths):
        raise UserError(
            f"{found}, and it would lie in another place of them every time: {instead}, or "
            "lengthen data.window, and with it the inputs and args"
        )
    print(f"{found}: their middle is taken every time", flush=True)


def _portable(source: str, run: str) -> str:
    if source.startswith("corpus:"):
        return source
    return os.path.relpath(os.path.expanduser(source), run)
