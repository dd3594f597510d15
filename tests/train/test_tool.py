"""`tools/train.py`: mistakes end it with exit code 2 and sentences, before any data is read."""

import runpy
import sys
from pathlib import Path

import pytest

import avssl.train.clips
from tests.train import tiny

TOOL = tiny.CONFIGS.parent / "tools" / "train.py"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
    monkeypatch.setattr(avssl.train.clips, "open_clips", tiny.TinyClips)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    return int(ended.value.code or 0)


def test_mistakes_end_it_with_code_2_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.write(tmp_path)
    assert call(monkeypatch, str(path), "train.lrr=1", "data.workers=-1") == 2
    said = capsys.readouterr().err
    assert "command line 'train.lrr=1': unknown key 'lrr'" in said and "2 problems" in said
    assert not (tmp_path / "run").exists()


def test_it_trains_with_what_the_command_line_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.write(tmp_path)
    other = tmp_path / "other"
    assert call(monkeypatch, str(path), f"run={other}", "stages.first.steps=2",
                "stages.second.repeat=1", "stages.second.steps=1") == 0  # fmt: skip
    assert len(tiny.metrics(other)) == 3
