"""A run killed with SIGKILL at any moment ends as the run that was never interrupted.

pytest tests/train/test_kill.py --long      # 20 kills instead of 3
"""

import random
import time
from pathlib import Path

import pytest

from tests.train import tiny

OVERRIDES = ("train.save_every=3", "stages.first.steps=24", "stages.second.steps=10")


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_runs_continue_bit_for_bit(tmp_path: Path, kills: int) -> None:
    whole = tiny.start(tiny.write(tmp_path / "whole"), OVERRIDES, output=tmp_path / "whole.log")
    whole.join(tiny.PATIENCE)
    assert whole.exitcode == 0, (tmp_path / "whole.log").read_text()
    path, run = tiny.write(tmp_path / "killed"), tmp_path / "killed" / "run"
    moments = random.Random(kills)
    log = tmp_path / "killed.log"
    for _ in range(kills):
        process = tiny.start(path, OVERRIDES, output=log)
        _wait_for_steps(run, moments.randint(1, max(1, 36 // kills)), process)
        time.sleep(moments.random() * 0.05)  # in the middle of a step, a probe or a checkpoint
        process.kill()
        process.join()
    last = tiny.start(path, OVERRIDES, output=log)
    last.join(tiny.PATIENCE)
    assert last.exitcode == 0, log.read_text()
    assert tiny.metrics(run) == tiny.metrics(tmp_path / "whole" / "run")
    for stage in ("first", "second", "second.2"):
        a, b = tiny.weights(run, stage), tiny.weights(tmp_path / "whole" / "run", stage)
        assert all(a[key].equal(b[key]) for key in a)


def _wait_for_steps(run: Path, steps: int, process) -> None:  # type: ignore[no-untyped-def]
    """Wait until the process has written `steps` new lines (or has ended)."""

    def lines() -> int:
        file = run / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.is_file() else 0

    smallest = lines()
    while process.is_alive():
        now = lines()
        smallest = min(smallest, now)  # a resume drops lines first
        if now >= smallest + steps:
            return
        time.sleep(0.002)
