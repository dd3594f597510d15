"""Small experiments and clips for the training tests, and a way to run them in other processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIGS = Path(__file__).parents[2] / "configs"

# A student that matches its EMA teacher: seconds to train, and everything a run has.
STUDENT = """\
args: {width: 16, depth: 2, frames: 32, bins: 32, dropped: 0.5, temperature: 0.2}
inputs:
  audio: [B, 1, "${args.frames}", "${args.bins}"]
modules:
  audio:
    {type: graph, file: towers/vit_audio.yaml, width: "${args.width}", depth: "${args.depth}",
     heads: 2, frames: "${args.frames}", bins: "${args.bins}", drop_path: 0.1}
  head: {type: linear, width: "${args.width}", out: "${args.width}"}
  teacher: {ema_of: audio, momentum: {kind: cosine, start: 0.9, end: 1.0}}
  mask: {type: random_mask, ratio: "${args.dropped}", patch: [16, 16]}
  nce: {type: info_nce, temperature: "${args.temperature}"}
nodes:
  m: {call: mask, in: {like: batch.audio}}
  a: {call: audio, in: {x: batch.audio, keep: m.keep}}
  p: {call: head, in: {x: a.pooled}}
  t: {call: teacher, in: {x: batch.audio}}
losses:
  match: {call: nce, in: {a: p, b: t.pooled}}
"""
# A second stage: the same with the stage before as frozen teacher.
PROMOTED = STUDENT.replace(
    "{ema_of: audio, momentum: {kind: cosine, start: 0.9, end: 1.0}}",
    "{frozen_from: previous.audio}",
)
EXPERIMENT = """\
name: tiny
run: {run}
data:
  source: never read
  batch: 8
  workers: 0
  inputs:
    audio: {{type: fbank, bins: 32, frames: 32}}
train: {{lr: 1.0e-2, warmup: 0.5, save_every: 5, log_every: 4, clip: 1.0}}
probe: {{every: 0, pictures: false}}
stages:
  first: {{graph: graphs/student.yaml, epochs: 1.5}}
  second: {{graph: graphs/promoted.yaml, steps: 6, repeat: 2}}
"""
PATIENCE = 400  # seconds before a child counts as hanging; far above what it needs
MAVIL = """\
name: tiny_mavil
run: {run}
data:
  source: never read
  batch: 8
  workers: 0
  inputs:
    audio: {{type: fbank, bins: 32, frames: 64}}
    video: {{type: frames, frames: 4, size: 32}}
args:
  {{width: 16, depth: 2, heads: 2, fusion_depth: 1, decoder_width: 16, decoder_depth: 1,
   decoder_heads: 2, mel_frames: 64, mel_bins: 32, frames: 4, image: 32}}
train: {{lr: 1.0e-2, warmup: 0.5, save_every: 5, log_every: 4}}
probe: {{every: 0, pictures: false}}
stages:
  stage1: {{graph: graphs/mavil_stage1.yaml, steps: 20}}
  stage2: {{graph: graphs/mavil_stage2.yaml, steps: 8}}
"""


def write(folder: Path, text: str = EXPERIMENT, **graphs: str) -> Path:
    """Write an experiment with the tiny graphs into `folder`; its run goes to `folder`/run."""
    for part in ("towers", "graphs"):
        shutil.copytree(CONFIGS / part, folder / "configs" / part, dirs_exist_ok=True)
    for name, graph in {"student": STUDENT, "promoted": PROMOTED, **graphs}.items():
        (folder / "configs" / "graphs" / f"{name}.yaml").write_text(graph)
    path = folder / "configs" / "tiny.yaml"
    path.write_text(text.format(run=folder / "run"))
    return path


class TinyClips:
    """Random tensors in place of clips: a function of the stage's seed and the step alone, or with
    ``window_position: middle`` of the clip alone, of which an epoch has 64 in another order."""

    steps_per_epoch = 8
    fingerprint = "64 (tiny)"
    file_sizes = "0 (tiny)"
    train_rows = tuple(3 * clip + 1 for clip in range(64))  # others are of other splits

    def __init__(self, config: Any, world: Any) -> None:
        self.shapes = {name: recipe.shape for name, recipe in config.inputs.items()}
        self.batch, self.world = config.batch, world
        self.middle = config.window_position == "middle"
        self.clips_per_step = config.batch
        self.description = {"source": "random tensors"}
        self.spoilt_step = -1

    def require(self, splits: Sequence[str]) -> None:
        assert set(splits) <= {"val", "test"}

    def batches(self, *, seed: int, start: int, steps: int, **_: Any) -> Iterator[dict[str, Any]]:
        share = self.batch // self.world.size
        rows = slice(self.world.rank * share, (self.world.rank + 1) * share)
        for step in range(start, steps):
            batch = self.same(seed, step) if self.middle else self.make(seed + step, self.batch)
            if step == self.spoilt_step:
                batch["audio"][0] = float("nan")
            yield {name: value[rows] for name, value in batch.items()} | {"failures": []}

    def same(self, seed: int, step: int) -> dict[str, Tensor]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(seed + epoch))
        clips = order[place * self.batch : (place + 1) * self.batch].tolist()
        rows = [self.make(clip, 1) for clip in clips]
        batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return batch | {"clip": torch.tensor([self.train_rows[clip] for clip in clips])}

    def split(self, name: str, **_: Any) -> Iterator[dict[str, Any]]:
        first = {"train": 0, "val": 1000, "test": 2000}[name]
        for number in range(2):
            batch = self.make(first + number, 16)
            yield batch | {"clip": torch.arange(16) + first + 16 * number, "failures": []}

    def make(self, seed: int, rows: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(seed)
        batch = {
            name: torch.randn(rows, *shape, generator=random) for name, shape in self.shapes.items()
        }
        batch["label"] = torch.arange(rows) % 4
        batch["clip"] = torch.arange(rows)
        return batch


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what differs between two equal runs."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def weights(run: Path, stage: str) -> dict[str, Tensor]:
    """The final weights of a stage."""
    from avssl.train.weights import stage_weights

    return stage_weights(run, stage)


def child(
    path: Path,
    overrides: Sequence[str],
    environment: Mapping[str, str],
    output: Path | None,
    file_limit: int | None,
) -> None:
    """Train in this (child) process; ends it with exit code 2 and the sentence on an error."""
    os.environ.update(environment)
    if file_limit is not None:  # no file may grow larger, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if output is not None:
        log = open(output, "a", buffering=1)
        sys.stdout = sys.stderr = log
    torch.set_num_threads(1)
    import avssl.train.clips
    from avssl.errors import run_tool
    from avssl.train.run import train

    avssl.train.clips.open_clips = TinyClips  # type: ignore[assignment]
    run_tool(lambda: train(path, overrides))()


def start(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    output: Path | None = None,
    file_limit: int | None = None,
) -> multiprocessing.Process:
    """Start `child` in a process forked from a server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.preload"])
    arguments = (path, overrides, environment or {}, output, file_limit)
    process = context.Process(target=child, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


def start_ranks(
    path: Path, overrides: Sequence[str], *, world: int, output: Path
) -> list[multiprocessing.Process]:
    """Train as `torchrun` would start it, on `world` processes, and wait for their ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        start(path, overrides, environment={**shared, "RANK": r, "LOCAL_RANK": r}, output=output)
        for r in map(str, range(world))
    ]
    for process in processes:
        process.join(PATIENCE)
    return processes
