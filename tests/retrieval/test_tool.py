"""`tools/retrieve.py`: tables, JSON, a picture; mistakes are sentences and exit code 2."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from avssl.retrieval.nearest import Nearest
from tests.retrieval.conftest import CORPUS
from tests.train import tiny

TOOL = tiny.CONFIGS.parent / "tools" / "retrieve.py"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    return int(ended.value.code or 0)


def test_index_then_query(
    model: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    source = f"corpus:{CORPUS}"
    assert call(monkeypatch, "index", source, "--run", model, "--split", "test") == 0
    said = capsys.readouterr()
    assert said.out == "index: 8 clips; 8 added, 0 were there, 0 unreadable, 0 left out\n"
    assert "indexing: 8/8" in said.err and "left" in said.err
    picture = tmp_path / "found.png"
    asked = ["query", clips / "00003.mp4", "--to", "video", "--by", "video", "--top", "3"]
    assert call(monkeypatch, *asked, "--picture", picture) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "score", "id", "path", "time", "label"]
    assert lines[1].split()[:4] == ["1", "1.0000", "3", "clips/test/00003.mp4"] and len(lines) == 4
    with Image.open(picture) as image:
        assert image.width > 3 * 160 and len(image.convert("RGB").getcolors(1 << 20) or []) > 100
    assert call(monkeypatch, "query", clips / "00003.wav", "--to", "video", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["rank"] for row in rows] == list(range(1, 9)) and Path(rows[0]["file"]).is_file()


def test_too_little_recall_and_too_few_matches_are_said(
    scenes: Path, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ["query", clips / "00003.mp4", "--to", "video", "--index", scenes]
    assert call(monkeypatch, *query) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(Nearest, "recall", 0.9)
    monkeypatch.setattr(Nearest, "most", 4)
    assert call(monkeypatch, *query) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 5
    assert "finds 90.0% of the 10 nearest video vectors" in said.err
    assert "only 4 of 8 clips are ranked" in said.err


def test_mistakes_are_sentences(
    model: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "none.wav").touch()
    query = ["query", tmp_path / "none.wav", "--to", "video", "--index"]
    for arguments, sentence in (
        ([*query, tmp_path / "no"], "is no index, it has no index.json"),
        ([*query, scenes], "none.wav: "),
        ([*query, scenes, "--memory", "1KB"], "allowed are 1.0 KB"),
        ([*query, scenes, "--picture", "x.txt"], "must end in .png or .jpg"),
        (["index", tmp_path, "--run", tmp_path / "no", "--out", tmp_path / "a"], "no"),
        (["index", tmp_path / "no", "--run", model, "--out", tmp_path / "b"], "neither a folder"),
        (["index", tmp_path, "--run", model, "--memory", "lots"], "such as 500MB or 4GB"),
        ([*query, scenes, "--top", "0"], "whole number above 0"),
    ):
        assert call(monkeypatch, *arguments) == 2
        said = capsys.readouterr().err
        assert sentence in said and "Traceback" not in said
