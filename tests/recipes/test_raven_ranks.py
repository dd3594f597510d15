"""RAVEn in two processes: training is that of one process with the same clips."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

import avssl.train.clips
from avssl.graph.graph import Graph
from avssl.train import checkpoint
from avssl.train.run import train
from tests.recipes.ranks import Job, two_train_as_one_does
from tests.recipes.raven import batch, rows, tiny
from tests.recipes.talk import EXPERIMENT, STEPS, Talk, overrides
from tests.train.tiny import metrics

LENGTHS = (8, 8, 3, 5)  # 16 frames of one process and 8 of the other
# all that is drawn, but for dropout of attention weights, which each process draws for itself
ARGS = {
    "video_to_video": 0.5,
    "dropout": 0.1,
    "drop_path": 0.3,
    "momentum": 0.9,
    "target_norm": "whiten",
}


def graph() -> Graph:
    return tiny(**ARGS)


def share(step: int, rank: int, size: int) -> dict[str, Tensor]:
    count = len(LENGTHS) // size
    return rows(batch(LENGTHS, seed=step), rank * count, (rank + 1) * count)


@pytest.mark.parametrize("steps", [2, pytest.param(8, marks=pytest.mark.long)])
def test_two_ranks_train_as_one_process_does(tmp_path: Path, steps: int) -> None:
    job = Job(graph, share, {"rtol": 1e-8, "atol": 1e-9})
    two_train_as_one_does(job, tmp_path, steps)


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
