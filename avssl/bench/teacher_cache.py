"""Epochs of a student whose frozen teachers' targets come from disk, against epochs in which the
teachers run.

The same stage, with teachers at random weights, which take as long as trained ones. Epochs of both
kinds take turns in one process, each behind its own loader; the clock starts with the first batch
in hand. Checked: losses of a step are equal to 1e-6, and the median over rounds of the ratio of
times reaches the goal.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avssl.arguments import count
from avssl.bench.timing import CLOCK_HELP, CLOCKS
from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.train.clips import Clips, open_clips
from avssl.train.experiment import Instance, LoadedExperiment, load_experiment
from avssl.train.loop import to_device
from avssl.train.optimizer import make_optimizer, peak_lr
from avssl.train.parallel import World
from avssl.train.precision import in_bf16, teacher_dtype
from avssl.train.step import Recipe, train_step
from avssl.train.teacher_cache import open_cache, random_inputs

GOAL = 1.5
SIDES = ("teachers run", "cached")


def steady_stage(config: Path, stage: str, folder: str) -> tuple[LoadedExperiment, Instance]:
    """A stage with a cache in `folder`, and with clips that look the same in every epoch."""
    experiment = load_experiment(config)
    instance = next((item for item in experiment.instances if item.name == stage), None)
    if instance is None:
        raise UserError(f"{config} has no stage '{stage}': give --stage")
    steady = random_inputs(experiment.config.data, instance.spec)
    overrides = [f"{key}={value}" for key, value in steady.items()]
    overrides += [f"stages.{stage}.teacher_cache.folder={folder}", "train.lr_rule=absolute"]
    experiment = load_experiment(config, overrides)
    return experiment, next(item for item in experiment.instances if item.name == stage)


class Student:
    """A stage, ready to train with and without its cache."""

    def __init__(
        self, experiment: LoadedExperiment, instance: Instance, clips: Clips, world: World
    ) -> None:
        specs = {item.name: item.spec for item in experiment.instances}
        references = experiment.references(
            instance, lambda name: Graph.from_spec(specs[name]).state_dict()
        )
        self.graph = Graph.from_spec(instance.spec, references=references).to(world.device).train()
        config = experiment.config.train
        self.graph.teacher_dtype = teacher_dtype(config, world.device)
        self.optimizer = make_optimizer(self.graph, config)
        self.recipe = Recipe(
            seed=0,
            steps=1,
            warmup=0,
            peak=peak_lr(config, experiment.config.data.batch) * 1e-3,  # both sides move little
            minimum=0.0,
            clip=config.clip,
            bf16=in_bf16(config, world.device),
            log_every=2**31,
        )
        self.world, self.clips = world, clips
        self.cache = open_cache(experiment, instance, self.graph, self.recipe, clips, world)

    def step(self, side: str, batch: dict[str, Any]) -> None:
        inputs, targets = self.inputs(side, batch)
        train_step(
            self.graph,
            inputs,
            step=0,
            model=self.graph,
            optimizer=self.optimizer,
            recipe=self.recipe,
            world=self.world,
            targets=targets,
        )

    def inputs(
        self, side: str, batch: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        assert self.cache is not None
        inputs = to_device(batch, self.graph, self.world.device)
        targets = self.cache.targets(inputs, batch["clip"]) if side == "cached" else None
        return inputs, targets

    @torch.no_grad()
    def losses(self, side: str, batch: dict[str, Any]) -> dict[str, float]:
        inputs, targets = self.inputs(side, batch)
        torch.manual_seed(0)
        found = self.graph(inputs, list(self.graph.losses), targets)
        return {name: loss.item() for name, loss in found.items()}

    def batches(self, first: int, steps: int) -> Iterable[dict[str, Any]]:
        """Of as many steps from the step `first` on."""
        inputs = self.graph.inputs
        return self.clips.batches(seed=0, start=first, steps=first + steps, inputs=inputs)

    def epoch(self, side: str, steps: int) -> dict[str, float]:
        """Seconds by each clock for the first `steps` of an epoch."""
        batches = iter(self.batches(0, steps))
        batch = next(batches, None)
        began = {name: clock() for name, clock in CLOCKS.items()}
        while batch is not None:
            self.step(side, batch)
            batch = next(batches, None)
        return {name: clock() - began[name] for name, clock in CLOCKS.items()}


def main(argv: Sequence[str]) -> int:
    """Print both times and their ratio; exit code 1 where losses differ or the goal is missed."""
    parser = argparse.ArgumentParser(prog="bench.py teacher_cache", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/mvd.yaml"))
    parser.add_argument("--stage", default="student")
    parser.add_argument("--steps", type=count, help="of an epoch that are run; all by default")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help=CLOCK_HELP)
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = World(0, 1, device, "single")
    with tempfile.TemporaryDirectory() as folder:
        experiment, instance = steady_stage(options.config, options.stage, folder)
        student = Student(experiment, instance, open_clips(experiment.config.data, world), world)
        whole = student.clips.steps_per_epoch
        steps = min(options.steps or whole, whole)
        began = time.perf_counter()
        for batch in student.batches(0, steps):
            student.inputs("cached", batch)  # fills the cache
        print(f"cache filled in {time.perf_counter() - began:.1f} s")
        pair = [student.losses(side, batch) for side in SIDES]
        far = max(abs(pair[0][name] - pair[1][name]) for name in pair[0])
        print(f"losses differ by at most {far:.1e}")
        times: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for number in range(options.rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                times[side].append(student.epoch(side, steps))
                print(f"  {side:13} " + _told(times[side][-1]), flush=True)
    medians = {
        clock: statistics.median(
            a[clock] / b[clock] for a, b in zip(times[SIDES[0]], times[SIDES[1]], strict=True)
        )
        for clock in CLOCKS
    }
    reached = medians[options.clock] >= GOAL
    print(f"{options.rounds} rounds of epochs of {steps} steps on {device.type}, medians of ratios")
    for clock, ratio in medians.items():
        print(f"  {clock:10} {ratio:.2f}")
    print(f"goal {GOAL} by {options.clock} time {'reached' if reached else 'MISSED'}")
    return 0 if reached and far <= 1e-6 else 1


def _told(seconds: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:8.2f} s" for name, value in seconds.items())
