"""Training on batches of clips of similar length against batches of the same clips in random order.

Each round trains the graph (forward and backward, no update) on the same made-up clips three times:
in the batches of `data.lengths`, padding left out of the work by `frames`; in random order, as many
batches, padded to the longest clip of each, which is what a plain loader gives; and in random order
with padding left out of the work. The order turns every round, and ratios are medians over rounds.

Letters: B batch, T frames, V real frames, S pixels, K samples of a frame.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avssl.arguments import amount, count
from avssl.bench.timing import CLOCK_HELP, CLOCKS, alternate, median_ratio
from avssl.data.buckets import Buckets
from avssl.data.config import DataConfig
from avssl.data.length_config import REAL, LengthsConfig, LipsConfig, WaveConfig
from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.train.experiment import load_experiment

GOAL = 1.5  # times as many frames a second as padded batches
BUCKETED, PADDED, PACKED = "buckets", "random, padded", "random, padding left out"


def main(argv: Sequence[str]) -> int:
    """Print frames/s of each kind of batch and their ratios; exit code 1 below the goal."""
    parser = argparse.ArgumentParser(prog="bench.py lengths", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/raven.yaml"))
    parser.add_argument("overrides", nargs="*", help="of the configuration, key=value")
    parser.add_argument("--clips", type=count, default=96)
    parser.add_argument("--shortest", type=amount, default=1.0, help="s")
    parser.add_argument("--longest", type=amount, default=10.0, help="s")
    parser.add_argument("--budget", type=count, default=1500, help="frames of a batch")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help=CLOCK_HELP)
    options = parser.parse_args(argv)
    experiment = load_experiment(options.config, options.overrides)
    data, stage = experiment.config.data, experiment.instances[0]
    if data.lengths is None:
        raise UserError(f"{options.config} has no data.lengths: its clips are all equally long")
    if stage.spec.unresolved:
        raise UserError("the first stage of an experiment is measured, and it reads another one")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    graph = Graph.from_spec(stage.spec, seed=0).to(device).train()
    frames = _mix(options.clips, options.shortest, options.longest, data.rate)
    lengths = LengthsConfig(options.budget, options.longest, options.shortest, data.lengths.buckets)
    bucketed, random = batches(frames, lengths)
    calls = {
        BUCKETED: _epoch(graph, data, [frames[rows] for rows in bucketed], packed=True),
        PADDED: _epoch(graph, data, [frames[rows] for rows in random], packed=False),
        PACKED: _epoch(graph, data, [frames[rows] for rows in random], packed=True),
    }
    used = int(frames[np.concatenate(bucketed)].sum())
    print(
        f"{sum(map(len, bucketed))} clips of {options.shortest:g} to {options.longest:g} s, {used} "
        f"frames, {len(bucketed)} batches of {options.budget} at most, {options.config} on "
        f"{device}, {torch.get_num_threads()} threads, {options.clock} time"
    )
    print(f"padding: {_padding(frames, bucketed):.0%} in buckets, {_padding(frames, random):.0%}")
    times = alternate(calls, rounds=options.rounds, clock=CLOCKS[options.clock])
    for name, values in times.items():
        rate = used / statistics.median(values)
        ratio = median_ratio(times, PADDED, name)
        print(f"  {name:26} {rate:9.0f} frames/s  {ratio:5.2f} x")
    found = median_ratio(times, PADDED, BUCKETED)
    reached = "reached" if found >= GOAL else "NOT reached"
    print(f"buckets against padded batches: {found:.2f} x, goal {GOAL:g} {reached}")
    return 0 if found >= GOAL else 1


def batches(
    frames: np.ndarray, lengths: LengthsConfig
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The batches of an epoch, and as many of the same clips in random order: indices of each."""
    sizes = np.stack([frames, np.zeros_like(frames)], 1)  # [clips, 2]
    bucketed = Buckets(sizes, lengths).order(0, 0)
    clips = np.random.default_rng(1).permutation(np.concatenate(bucketed))
    return bucketed, np.array_split(clips, len(bucketed))


def _mix(clips: int, shortest: float, longest: float, rate: int) -> np.ndarray:
    """Frames of clips whose lengths are spread evenly, int64 [clips]."""
    if shortest > longest:
        raise UserError(f"--shortest {shortest:g} is above --longest {longest:g}")
    spread: np.ndarray = np.linspace(shortest, longest, clips) * rate
    return np.random.default_rng(0).permutation(spread.round().astype(np.int64))


def _padding(frames: np.ndarray, batches: Sequence[np.ndarray]) -> float:
    """Share of padding in batches."""
    places = sum(len(rows) * int(frames[rows].max()) for rows in batches)
    return 1 - float(sum(int(frames[rows].sum()) for rows in batches)) / places


def _epoch(
    graph: Graph, data: DataConfig, batches: Sequence[np.ndarray], *, packed: bool
) -> Callable[[], None]:
    """What trains on batches of clips of these lengths, one after the other."""
    device = next(graph.parameters()).device
    weights = {name: loss.weight(0.0) for name, loss in graph.losses.items()}

    def run() -> None:
        for frames in batches:
            batch = noise(data, frames, device=device)
            if not packed:
                del batch[REAL]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                losses = graph(batch)
            total = torch.stack([losses[name] * weight for name, weight in weights.items()]).sum()
            total.backward()
            graph.zero_grad()

    return run


def noise(data: DataConfig, frames: np.ndarray, *, device: torch.device) -> dict[str, Tensor]:
    """A batch of clips of so many frames, filled with noise; inputs [B, 1, T, S, S] and [B, T, K],
    `frames` [V]."""
    clips, time = len(frames), int(frames.max())
    made: dict[str, Tensor] = {}
    for name, recipe in data.inputs.items():
        if isinstance(recipe, LipsConfig):
            made[name] = torch.randn(clips, 1, time, recipe.size, recipe.size, device=device)
        elif isinstance(recipe, WaveConfig):
            made[name] = torch.randn(clips, time, recipe.samples, device=device) / 10
        else:
            raise UserError(
                f"data.inputs.{name} is of type {recipe.type}: only lips and wave can be made up"
            )
    rows = [row * time + np.arange(n) for row, n in enumerate(frames.tolist())]
    made[REAL] = torch.from_numpy(np.concatenate(rows)).to(device)  # [V]
    return made
