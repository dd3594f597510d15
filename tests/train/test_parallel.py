"""Several processes do what one does with the same global batch."""

import shutil
from pathlib import Path

import pytest

from tests.train import tiny

STEPS = ("stages.stage1.steps=20", "stages.stage2.steps=8", "train.save_every=5")
MAVIL = tiny.CONFIGS / "mavil.yaml"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MAViL's two stages at tiny size, trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    _one(folder / "run", folder / "log")
    return folder / "run"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by two processes under FSDP2."""
    folder = tmp_path_factory.mktemp("sharded")
    _two(folder / "run", folder / "log", "fsdp")
    return folder / "run"


def test_two_processes_give_the_losses_of_one_under_ddp(tmp_path: Path, alone: Path) -> None:
    _two(tmp_path / "run", tmp_path / "log", "ddp")
    compare(tiny.metrics(alone), tiny.metrics(tmp_path / "run"))


def test_two_processes_give_the_losses_of_one_under_fsdp(alone: Path, sharded: Path) -> None:
    compare(tiny.metrics(alone), tiny.metrics(sharded))


def test_one_process_continues_what_two_began_under_fsdp(
    tmp_path: Path, alone: Path, sharded: Path
) -> None:
    run = _cut_back(sharded, tmp_path / "run", stage1=15, stage2=0)
    _one(run, tmp_path / "log")
    compare(tiny.metrics(alone), tiny.metrics(run))


def test_two_processes_continue_what_one_began(tmp_path: Path, alone: Path) -> None:
    run = _cut_back(alone, tmp_path / "run", stage1=20, stage2=5)
    _two(run, tmp_path / "log", "fsdp")
    compare(tiny.metrics(alone), tiny.metrics(run))


def _one(run: Path, log: Path) -> None:
    process = tiny.start(MAVIL, [*tiny.MAVIL, *STEPS, f"run={run}"], output=log)
    process.join(tiny.PATIENCE)
    assert process.exitcode == 0, log.read_text()


def _two(run: Path, log: Path, mode: str) -> None:
    overrides = [*tiny.MAVIL, *STEPS, f"run={run}", f"train.parallel={mode}"]
    tiny.ranks(MAVIL, overrides, world=2, output=log)


def compare(expected: list[dict], found: list[dict]) -> None:
    """Losses equal to 1e-5 relative; gradient and update norms to 1e-3."""
    assert len(expected) == len(found) == 28
    for a, b in zip(expected, found, strict=True):
        assert (a["stage"], a["step"]) == (b["stage"], b["step"])
        for name, value in a.items():
            if name.startswith("loss"):
                assert b[name] == pytest.approx(value, rel=1e-5), (a["stage"], a["step"], name)
            elif name.startswith(("grad/", "update/")):
                assert b[name] == pytest.approx(value, rel=1e-3), (a["stage"], a["step"], name)


def _cut_back(finished: Path, run: Path, **steps: int) -> Path:
    """A copy of a finished run as a kill would have left it, with checkpoints up to `steps`."""
    shutil.copytree(finished, run)
    for stage, last in steps.items():
        for path in (run / "checkpoints" / stage).iterdir():
            if int(path.name[5:]) > last:
                shutil.rmtree(path)
    (run / "card.md").unlink()
    return run
