"""A recipe trained in two processes, under DDP and FSDP2, held against one with the same clips.

In float64, where nothing but a mistake makes more than the last digits differ: in float32 the order
of sums alone moves some gradients of the stems by a few parts in ten thousand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from avssl.graph.graph import Graph
from avssl.train import checkpoint
from avssl.train.checkpoint import Progress
from avssl.train.config import TrainConfig
from avssl.train.optimizer import make_optimizer
from avssl.train.parallel import World, spread
from avssl.train.sharding import full
from avssl.train.step import Recipe, train_step

Mode = Literal["single", "ddp", "fsdp"]
CLIP = 0.5  # below the norms of gradients


@dataclass(frozen=True)
class Job:
    """What is trained; its functions are a module's own, for they go to other processes by name.

    Attributes:
        graph: makes it.
        share: of (step, rank, number of processes), a process's rows of the step's batch.
        close: tolerances of weights.
    """

    graph: Callable[[], Graph]
    share: Callable[[int, int, int], dict[str, Tensor]]
    close: dict[str, float]


class Run:
    """One process of a training run."""

    def __init__(self, job: Job, mode: Mode, rank: int = 0, size: int = 1) -> None:
        config = TrainConfig(decayed="all", weight_decay=0.04)
        self.job, self.world = job, World(rank, size, torch.device("cpu"), mode)
        self.graph = job.graph().double()
        self.model = spread(self.graph, self.world, config)
        self.optimizer = make_optimizer(self.graph, config)

    def step(self, step: int, *, of: int) -> dict[str, float]:
        """One of `of` steps; gives its figures."""
        mine = self.job.share(step, self.world.rank, self.world.size)
        mine = {k: x.double() if x.is_floating_point() else x for k, x in mine.items()}
        recipe = Recipe(
            seed=7, steps=of, warmup=1, peak=1e-2, minimum=1e-4, clip=CLIP, bf16=False, log_every=1
        )
        return train_step(
            self.graph,
            mine,
            step=step,
            model=self.model,
            optimizer=self.optimizer,
            recipe=recipe,
            world=self.world,
        )

    def found(self, steps: int) -> dict[str, Any]:
        """The figures of each step, and everything the next one would start from."""
        figures = [self.step(step, of=steps) for step in range(steps)]
        state = {name: full(item).clone() for name, item in self.graph.state_dict().items()}
        return {"figures": figures, "state": state}

    def save(self, folder: Path, step: int) -> None:
        progress = Progress("stage", step, step, True, 0.0, "4")
        checkpoint.save(folder, progress, self.graph, self.optimizer, keep=1)


def two_train_as_one_does(job: Job, folder: Path, steps: int) -> list[dict[str, float]]:
    """Asserts that they do; gives the figures of each step."""
    mp.get_context("forkserver").set_forkserver_preload(["tests.train.preload"])
    mp.start_processes(_work, args=(job, folder, steps), nprocs=2, start_method="forkserver")
    alone = Run(job, "single")
    expected = alone.found(steps)
    for mode in ("ddp", "fsdp"):
        ranks = [torch.load(folder / f"{mode}{rank}.pt") for rank in range(2)]
        # losses, norms of gradients and updates, what the graph logs: in float32, as logged
        for wanted, *found in zip(expected["figures"], *(r["figures"] for r in ranks), strict=True):
            assert found[0] == found[1], mode
            assert found[0] == pytest.approx(wanted, rel=1e-6, abs=1e-6), mode
        for name, tensor in expected["state"].items():
            first, second = (rank["state"][name] for rank in ranks)
            assert torch.equal(first, second), (mode, name)
            _close(first, tensor, job, f"{mode} {name}")
    _one_process_goes_on_from(folder / "fsdp", alone, steps)
    return expected["figures"]


def _work(rank: int, job: Job, folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    start = f"file://{folder}/start"
    dist.init_process_group("gloo", init_method=start, rank=rank, world_size=2)
    torch.save(Run(job, "ddp", rank, 2).found(steps), folder / f"ddp{rank}.pt")
    sharded = Run(job, "fsdp", rank, 2)
    torch.save(sharded.found(steps), folder / f"fsdp{rank}.pt")
    sharded.save(folder / "fsdp", steps)
    dist.destroy_process_group()


def _one_process_goes_on_from(folder: Path, alone: Run, steps: int) -> None:
    """From what two wrote to the weights that one alone would reach."""
    path, _, damaged = checkpoint.newest(folder)
    assert path is not None and not damaged
    again = Run(alone.job, "single")
    checkpoint.load(path, again.graph, again.optimizer)
    for run in (alone, again):
        run.step(steps, of=steps + 1)
    for name, tensor in alone.graph.state_dict().items():
        _close(again.graph.state_dict()[name], tensor, alone.job, name)


def _close(found: Tensor, expected: Tensor, job: Job, name: str) -> None:
    torch.testing.assert_close(found, expected, **job.close, msg=lambda text: f"{name}: {text}")
