"""Several processes do what one does with the same global batch."""

import shutil
from pathlib import Path

import pytest
import torch

from avssl.train.parallel import World, share_cores
from tests.train import tiny

SHORT = (
    "stages.stage1.steps=8",
    "stages.stage2.steps=4",
    "train.save_every=2",
    "train.keep=9",
    "args.depth=1",
)


@pytest.fixture(scope="module")
def mavil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MAViL's two stages at tiny size: an experiment file."""
    return tiny.write(tmp_path_factory.mktemp("mavil"), tiny.MAVIL)


@pytest.fixture(scope="module")
def alone(mavil: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, 20 and 8 steps."""
    return _one(mavil, tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def short(mavil: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, 8 and 4 steps."""
    return _one(mavil, tmp_path_factory.mktemp("short") / "run", *SHORT)


@pytest.fixture(scope="module")
def sharded(mavil: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes under FSDP2, 8 and 4 steps."""
    return _two(mavil, tmp_path_factory.mktemp("sharded") / "run", "fsdp", *SHORT)


def test_ddp_gives_the_losses_of_one_process(tmp_path: Path, mavil: Path, alone: Path) -> None:
    compare(tiny.metrics(alone), tiny.metrics(_two(mavil, tmp_path / "run", "ddp")), lines=28)


def test_fsdp_gives_the_losses_of_one_process(short: Path, sharded: Path) -> None:
    compare(tiny.metrics(short), tiny.metrics(sharded), lines=12)


@pytest.mark.long
def test_fsdp_does_so_for_20_steps(tmp_path: Path, mavil: Path, alone: Path) -> None:
    compare(tiny.metrics(alone), tiny.metrics(_two(mavil, tmp_path / "run", "fsdp")), lines=28)


def test_one_process_continues_what_two_began(
    tmp_path: Path, mavil: Path, short: Path, sharded: Path
) -> None:
    run = _cut_back(sharded, tmp_path / "run", stage1=4, stage2=0)
    compare(tiny.metrics(short), tiny.metrics(_one(mavil, run, *SHORT)), lines=12)


def test_two_processes_continue_what_one_began(tmp_path: Path, mavil: Path, short: Path) -> None:
    run = _cut_back(short, tmp_path / "run", stage1=8, stage2=2)
    compare(tiny.metrics(short), tiny.metrics(_two(mavil, run, "fsdp", *SHORT)), lines=12)


def test_a_refusal_is_said_once_and_ends_every_process(
    tmp_path: Path, mavil: Path, short: Path
) -> None:
    run = shutil.copytree(short, tmp_path / "run")
    log = tmp_path / "log"
    processes = tiny.start_ranks(mavil, [f"run={run}", "seed=1", *SHORT], world=2, output=log)
    assert [process.exitcode for process in processes] == [2, 2], log.read_text()
    assert log.read_text().count("seed is 0 there and 1 here") == 1
    assert "Traceback" not in log.read_text()


def _one(path: Path, run: Path, *overrides: str) -> Path:
    log = run.with_name("log")
    process = tiny.start(path, [f"run={run}", *overrides], output=log)
    process.join(tiny.PATIENCE)
    assert process.exitcode == 0, log.read_text()
    return run


def _two(path: Path, run: Path, mode: str, *overrides: str) -> Path:
    log, how = run.with_name("log"), [f"run={run}", f"train.parallel={mode}"]
    processes = tiny.start_ranks(path, [*how, *overrides], world=2, output=log)
    assert [process.exitcode for process in processes] == [0, 0], log.read_text()
    return run


def compare(expected: list[dict], found: list[dict], *, lines: int) -> None:
    """Losses equal to 1e-5 relative; gradient and update norms to 1e-3."""
    assert len(expected) == len(found) == lines
    for a, b in zip(expected, found, strict=True):
        assert (a["stage"], a["step"]) == (b["stage"], b["step"])
        for name, value in a.items():
            if name.startswith("loss"):
                assert b[name] == pytest.approx(value, rel=1e-5), (a["stage"], a["step"], name)
            elif name.startswith(("grad/", "update/")):
                assert b[name] == pytest.approx(value, rel=1e-3), (a["stage"], a["step"], name)


def test_cores_are_left_to_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0, 1, torch.device("cpu"), "single")
    given: list[int] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)))
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share_cores(world, 1)
    share_cores(world, 9)
    share_cores(world, 1, threads=4)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    share_cores(world, 1, threads=4)
    assert given == [3, 1, 4]


def _cut_back(finished: Path, run: Path, **steps: int) -> Path:
    """A copy of a finished run as a kill would have left it, with checkpoints up to `steps`."""
    shutil.copytree(finished, run)
    for stage, last in steps.items():
        for path in (run / "checkpoints" / stage).iterdir():
            if int(path.name[5:]) > last:
                shutil.rmtree(path)
    (run / "card.md").unlink()
    return run
