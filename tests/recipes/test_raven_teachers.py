"""RAVEn's teachers over a run: what they hold after every step, and after the run was killed.

A teacher normalises by the batches it sees itself (`statistics: batch`), so it has buffers of its
own; its parameters follow the student's by the schedule, and no optimizer moves them.
"""

import math
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import avssl.train.clips
from avssl.graph.graph import Graph
from avssl.train import checkpoint
from avssl.train.experiment import load_experiment
from avssl.train.loop import stage_seed
from avssl.train.run import train
from tests.recipes.raven import TINY
from tests.recipes.talk import EXPERIMENT, STEPS, Talk, overrides
from tests.train.tiny import metrics

KILLED_AT = 3  # a checkpoint at 2
TEACHERS = {"teacher_video": "video", "teacher_audio": "audio"}
State = dict[str, Tensor]


class KilledTalk(Talk):
    """The same; the process ends as by a power cut when it asks for the batch of a step."""

    def batches(self, *, start: int, **wanted: Any) -> Iterator[dict[str, Any]]:
        for step, whole in enumerate(super().batches(start=start, **wanted), start):
            if step == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)
            yield whole


def arguments(run: Path, *, save_every: int) -> list[str]:
    """Without probes."""
    return [*overrides(run, save_every=save_every), "probe.every=0", "probe.towers={}"]


def killed(arguments: Sequence[str], threads: int) -> None:
    """A process of its own, which does not come to its end."""
    torch.set_num_threads(threads)
    avssl.train.clips.open_clips = KilledTalk  # type: ignore[assignment]
    train(EXPERIMENT, arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of every step."""
    run = tmp_path_factory.mktemp("raven") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avssl.train.clips, "open_clips", Talk)
        train(EXPERIMENT, arguments(run, save_every=1))
    return run


@pytest.fixture(scope="module")
def states(whole: Path) -> list[State]:
    """What the graph held before the first step and after each."""
    experiment = load_experiment(EXPERIMENT, arguments(whole, save_every=1), shapes=False)
    (instance,) = experiment.instances
    first = Graph.from_spec(instance.spec, seed=stage_seed(0, "pretrain")).state_dict()
    folders = [path for _, path in checkpoint.steps_saved(whole / "checkpoints" / "pretrain")]
    return [first, *(load_file(path / checkpoint.MODEL) for path in folders)]


def test_teachers_are_moving_averages_by_the_schedule(whole: Path, states: list[State]) -> None:
    logged = [row for row in metrics(whole) if "loss" in row]
    assert len(states) == STEPS + 1 == len(logged) + 1
    for step, ((before, after), row) in enumerate(zip(pairwise(states), logged, strict=True)):
        start = 1 - 0.99  # the momentum of the laptop's file; 1 at the last step
        momentum = 1 - start / 2 * (1 + math.cos(math.pi * step / (STEPS - 1)))
        for teacher, student in TEACHERS.items():
            assert row[f"momentum/{teacher}"] == pytest.approx(momentum, abs=1e-12)
            weight = 1 - row[f"momentum/{teacher}"]
            for name in parameters(after, teacher):
                old, new = before[name], after[name]
                now = after[name.replace(teacher, student, 1)]
                assert torch.equal(new, torch.lerp(old, now, weight)), (step, name)
                exact = momentum * old.double() + (1 - momentum) * now.double()
                torch.testing.assert_close(new.double(), exact, rtol=1e-6, atol=1e-7)
        assert not torch.equal(
            before["video.stem.conv.weight"], after["video.stem.conv.weight"]
        )  # there was something to follow


def test_teachers_begin_as_their_students(states: list[State]) -> None:
    for teacher, student in TEACHERS.items():
        for name in parameters(states[0], teacher):
            assert torch.equal(states[0][name], states[0][name.replace(teacher, student, 1)])


def test_teachers_have_buffers_of_their_own(states: list[State]) -> None:
    for teacher, student in TEACHERS.items():
        counts = [n for n in states[-1] if n.startswith(teacher) and n.endswith("tracked")]
        means = [n for n in states[-1] if n.startswith(teacher) and n.endswith("running_mean")]
        assert counts and len(counts) == len(means)
        for name in counts:  # each batch is seen once
            assert states[-1][name] == STEPS
        for name in means:  # of what it saw itself: unmasked clips
            assert not torch.equal(states[-1][name], states[-1][name.replace(teacher, student, 1)])


def test_every_step_logs_whether_the_targets_collapse(whole: Path) -> None:
    logged = [row for row in metrics(whole) if "loss" in row]
    assert len(logged) == STEPS
    for row in logged:
        for modality in ("video", "audio"):
            spread, rank = (row[f"log/target_{name}_{modality}"] for name in ("std", "rank"))
            assert math.isfinite(spread) and spread > 0, (row["step"], modality)
            assert 1 < rank <= TINY["width"], (row["step"], modality)  # 1: collapsed


def test_no_optimizer_holds_a_teacher(whole: Path, states: list[State]) -> None:
    _, path = checkpoint.steps_saved(whole / "checkpoints" / "pretrain")[-1]
    held = {name.rpartition("/")[0] for name in load_file(path / checkpoint.OPTIMIZER)}
    assert not [name for name in held if name.split(".")[0] in TEACHERS]
    # and everything else that is trained: both students, and the predictors of three losses
    assert {name.split(".")[0] for name in held} == {
        "video", "audio", "video_to_audio", "audio_to_audio", "audio_to_video"
    }  # fmt: skip
    assert {n for n in held if n.split(".")[0] == "video"} == {
        name.replace("teacher_video", "video", 1) for name in parameters(states[0], "teacher_video")
    }


def test_a_killed_run_ends_as_one_that_was_not(
    whole: Path, states: list[State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.preload"])
    process = context.Process(
        target=killed, args=(arguments(run, save_every=2), torch.get_num_threads())
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    ((last, path),) = checkpoint.steps_saved(run / "checkpoints" / "pretrain")
    assert last == 2
    same(load_file(path / checkpoint.MODEL), states[2])
    monkeypatch.setattr(avssl.train.clips, "open_clips", Talk)
    train(EXPERIMENT, arguments(run, save_every=2))
    assert metrics(run) == metrics(whole)
    folders = (item / "checkpoints" / "pretrain" for item in (run, whole))
    ends = [checkpoint.steps_saved(folder)[-1][1] for folder in folders]
    for file in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        same(*(load_file(end / file) for end in ends))


def parameters(state: State, module: str) -> list[str]:
    """Names of a module's parameters: of all that it holds but for BatchNorm's buffers."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return [n for n in state if n.startswith(f"{module}.") and not n.endswith(buffers)]


def same(found: State, expected: State) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
