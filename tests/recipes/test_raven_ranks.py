"""RAVEn in two processes, under DDP and FSDP2: training is that of one process with the same clips.

In float64, where nothing but a mistake makes more than the last digits differ: in float32 the order
of sums alone moves some gradients of the stems by a few parts in ten thousand.
"""

import os
import shutil
import socket
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import avssl.train.clips
from avssl.graph.graph import Graph
from avssl.train import checkpoint
from avssl.train.checkpoint import Progress
from avssl.train.config import TrainConfig
from avssl.train.optimizer import make_optimizer
from avssl.train.parallel import World, spread
from avssl.train.run import train
from avssl.train.sharding import full
from avssl.train.step import Recipe, train_step
from tests.recipes.raven import batch, rows, tiny
from tests.recipes.talk import EXPERIMENT, STEPS, Talk, overrides
from tests.train.tiny import metrics

Mode = Literal["single", "ddp", "fsdp"]
LENGTHS = (8, 8, 3, 5)  # 16 frames of one process and 8 of the other
# all that is drawn, but for dropout of attention weights, which each process draws for itself
ARGS = {"video_to_video": 0.5, "dropout": 0.1, "drop_path": 0.3, "momentum": 0.9}
CLIP = 0.5  # below the norms of gradients
CLOSE = {"rtol": 1e-8, "atol": 1e-9}


class Run:
    """One process of a training run."""

    def __init__(self, mode: Mode, rank: int = 0, size: int = 1) -> None:
        config = TrainConfig(decayed="all", weight_decay=0.04)
        self.world = World(rank, size, torch.device("cpu"), mode)
        self.graph: Graph = tiny(**ARGS).double()
        self.model = spread(self.graph, self.world, config)
        self.optimizer = make_optimizer(self.graph, config)

    def step(self, step: int, *, of: int) -> dict[str, float]:
        """One of `of` steps; gives its figures."""
        share = len(LENGTHS) // self.world.size
        mine = rows(
            batch(LENGTHS, seed=step), self.world.rank * share, (self.world.rank + 1) * share
        )
        mine |= {name: mine[name].double() for name in ("video", "audio")}
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
        progress = Progress("pretrain", step, step, True, 0.0, "4")
        checkpoint.save(folder, progress, self.graph, self.optimizer, keep=1)


def work(rank: int, folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    start = f"file://{folder}/start"
    dist.init_process_group("gloo", init_method=start, rank=rank, world_size=2)
    torch.save(Run("ddp", rank, 2).found(steps), folder / f"ddp{rank}.pt")
    sharded = Run("fsdp", rank, 2)
    torch.save(sharded.found(steps), folder / f"fsdp{rank}.pt")
    sharded.save(folder / "fsdp", steps)
    dist.destroy_process_group()


@pytest.mark.parametrize("steps", [2, pytest.param(8, marks=pytest.mark.long)])
def test_two_ranks_train_as_one_process_does(tmp_path: Path, steps: int) -> None:
    mp.get_context("forkserver").set_forkserver_preload(["tests.train.preload"])
    mp.start_processes(work, args=(tmp_path, steps), nprocs=2, start_method="forkserver")
    alone = Run("single")
    expected = alone.found(steps)
    for mode in ("ddp", "fsdp"):
        ranks = [torch.load(tmp_path / f"{mode}{rank}.pt") for rank in range(2)]
        # losses, norms of gradients and updates, spread and rank of targets: in float32, as logged
        for wanted, *found in zip(expected["figures"], *(r["figures"] for r in ranks), strict=True):
            assert found[0] == found[1], mode
            assert found[0] == pytest.approx(wanted, rel=1e-6, abs=1e-6), mode
        for name, tensor in expected["state"].items():
            first, second = (rank["state"][name] for rank in ranks)
            assert torch.equal(first, second), (mode, name)
            torch.testing.assert_close(first, tensor, **CLOSE, msg=f"{mode} {name}")
    _one_process_goes_on_from(tmp_path / "fsdp", alone, steps)


def _one_process_goes_on_from(folder: Path, alone: Run, steps: int) -> None:
    """From what two wrote to the weights that one alone would reach."""
    path, _, damaged = checkpoint.newest(folder)
    assert path is not None and not damaged
    again = Run("single")
    checkpoint.load(path, again.graph, again.optimizer)
    for run in (alone, again):
        run.step(steps, of=steps + 1)
    for name, tensor in alone.graph.state_dict().items():
        torch.testing.assert_close(again.graph.state_dict()[name], tensor, **CLOSE, msg=name)


@pytest.mark.long
def test_a_sharded_run_with_probes_may_go_on_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer as a whole, in float32: figures are close, and checkpoints are whole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    mp.get_context("forkserver").set_forkserver_preload(["tests.train.preload"])
    two, one = tmp_path / "two", tmp_path / "one"
    mp.start_processes(run_sharded, args=(_small(two), made), nprocs=2, start_method="forkserver")
    monkeypatch.setattr(avssl.train.clips, "open_clips", Talk)
    train(EXPERIMENT, _small(one))
    _alike(metrics(two), metrics(one))
    folder = two / "checkpoints" / "pretrain"
    for step, path in checkpoint.steps_saved(folder):
        if step > STEPS // 2:
            shutil.rmtree(path)
    (two / "card.md").unlink()
    train(EXPERIMENT, _small(two))
    _alike(metrics(two), metrics(one))


def run_sharded(rank: int, arguments: list[str], environment: dict[str, str]) -> None:
    """One process of those that `torchrun` would start."""
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    avssl.train.clips.open_clips = Talk  # type: ignore[assignment]
    train(EXPERIMENT, [*arguments, "train.parallel=fsdp"])


def _small(run: Path) -> list[str]:
    return [*overrides(run, save_every=1), "probe.every=3", "probe.clips=16"]


def _alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) == STEPS + 3  # a probe before the first step, and two more
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if name.startswith(("loss", "log", "grad", "update")):
                assert one[name] == pytest.approx(value, rel=0.02, abs=1e-3), (other["step"], name)
