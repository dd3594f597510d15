"""Self-training: a reader labels clips, and the round that is trained on them."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from avssl.data.source import open_source
from avssl.errors import UserError
from avssl.speech import pseudo
from avssl.speech.job import prepare
from avssl.speech.pseudo import pseudo_manifest
from tests.speech.tones import TEXTS, write_manifest, write_tones


def test_pseudo_labels_come_from_the_reader_alone(experiment: Path, tmp_path: Path) -> None:
    texts = ["abab", "b", "a a"]
    for number, text in enumerate(texts):
        write_tones(tmp_path / f"u{number}.wav", text)
    (tmp_path / "broken.wav").write_bytes(b"RIFF" + bytes(100))
    write_tones(tmp_path / "held.wav", "ab")
    names = [*(f"u{number}.wav" for number in range(3)), "broken.wav"]
    rows = [{"path": name, "text": "a wrong label", "split": "train"} for name in names]
    source = write_manifest(tmp_path, [*rows, {"path": "held.wav", "text": "ab", "split": "test"}])
    job = prepare(experiment, [])
    path = pseudo_manifest(job, str(source), tmp_path / "round2", 0.2)
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    assert not any("wrong" in row["text"] for row in found)
    own = [row for row in found if row["path"].startswith("pseudo/")]
    assert {Path(row["path"]).name for row in own} <= {"u0.wav", "u1.wav", "u2.wav"}
    assert own and all(float(row["confidence"]) >= 0.2 and row["split"] == "train" for row in own)
    labelled = [row for row in found if row["path"].startswith("labelled/")]
    assert [row["text"] for row in labelled if row["split"] == "train"] == [
        t.upper() for t in TEXTS
    ]
    assert len(labelled) == len(TEXTS) + 3 and not any(row["confidence"] for row in labelled)
    assert all((path.parent / row["path"]).is_file() for row in found)
    with pytest.raises(UserError, match=r"no clip of .* is kept at a confidence of 1"):
        pseudo_manifest(job, str(source), tmp_path / "round2", 1.0)
    with pytest.raises(UserError, match="no clip to label: all 11"):
        pseudo_manifest(job, job.experiment.config.data.source, tmp_path / "again", 0.0)


def test_stretches_without_text_are_labelled_unless_they_overlap_what_is_held_out(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tones(tmp_path / "known.wav", "ab")
    write_tones(tmp_path / "talk.wav", "abbaab bb")  # 1.24 s
    write_tones(tmp_path / "endless.wav", "ab" * 9)  # 2.32 s; data.lengths.longest is 2
    rows = [
        {"path": "known.wav", "start": "", "end": "", "text": "AB", "split": "train"},
        {"path": "endless.wav", "start": "", "end": "", "text": "", "split": "train"},
        {"path": "talk.wav", "start": "0", "end": "0.44", "text": "", "split": "train"},
        {"path": "talk.wav", "start": "0.44", "end": "0.8", "text": "aa", "split": "test"},
    ]
    own = write_manifest(tmp_path, rows)
    job = prepare(experiment, [f"data.source={own}"])

    def labelled_now(source: Path, folder: str) -> set[tuple[str, str]]:
        path = pseudo_manifest(job, str(source), tmp_path / folder, 0.0)
        with open(path, newline="") as file:
            found = list(csv.DictReader(file))
        assert sum(row["path"].startswith("labelled/") for row in found) == 2
        return {(r["path"], r["start"]) for r in found if r["path"].startswith("pseudo/")}

    assert labelled_now(own, "own") == {("pseudo/talk.wav", "0")}
    counts = "1 kept, 0 dropped for their confidence, 0 for nothing was read, 1 unreadable or too"
    assert f"{counts} long, 2 left alone" in capsys.readouterr().out
    others = [("0.36", "0.6"), ("0.7", "1.2"), ("", ""), ("0.8", "1.24")]
    more = [{**rows[1], "path": "talk.wav", "start": start, "end": end} for start, end in others]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "talk.wav").symlink_to(tmp_path / "talk.wav")
    assert labelled_now(write_manifest(tmp_path / "more", more), "others") == {
        ("pseudo/talk.wav", "0.8")
    }


def test_round_two_trains_on_both_from_the_same_start(
    experiment: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tones(tmp_path / "u0.wav", "abab")
    calls: list[list[str]] = []
    monkeypatch.setattr(pseudo, "finetune", lambda path, given: calls.append(list(given)) or 0)
    own = ["data.only.set=a"]  # which clips without labels, and those of round 2, need not have
    assert pseudo.second_round(experiment, own, source=str(tmp_path), min_confidence=0.0) == 0
    before, given = calls
    job, first = prepare(experiment, given), prepare(experiment, before)
    assert job.run == Path(f"{run}-round2")
    config = job.experiment.config
    changed = replace(config, run=first.experiment.config.run)
    assert replace(changed, data=first.experiment.config.data) == first.experiment.config
    clips = open_source(job.experiment.config.data).clips
    assert sum(clip.split == "train" for clip in clips) == len(TEXTS) + 1
    assert sum(clip.split == "test" for clip in clips) == 3


def test_a_source_without_clips_to_label_is_told_before_the_training(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo, "finetune", lambda path, given: pytest.fail("it was trained"))
    with pytest.raises(UserError, match="nowhere"):
        pseudo.second_round(experiment, [], source="nowhere", min_confidence=0.0)
    own = str(experiment.parent / "clips")
    with pytest.raises(UserError, match="no clip to label: all 11"):
        pseudo.second_round(experiment, [], source=own, min_confidence=0.0)
    (experiment.parent / "junk").mkdir()
    (experiment.parent / "junk" / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"none of the 1 clips in .*junk can be used; the first, a"):
        pseudo.second_round(
            experiment, [], source=str(experiment.parent / "junk"), min_confidence=0.0
        )


def test_what_round_two_was_trained_on_stays(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        write_tones(tmp_path / folder / "u0.wav", "abab")
        write_tones(tmp_path / folder / "u1.wav", "a a")
    job, second = prepare(experiment, []), tmp_path / "run-round2"
    path = pseudo_manifest(job, str(tmp_path / "here"), second, 0.0)
    text = path.read_text()
    lines = [line for line in text.splitlines() if line.startswith("pseudo/")]
    least = min(float(line.rpartition(",")[2]) for line in lines)
    second.mkdir()
    (second / "config.yaml").touch()
    assert pseudo_manifest(job, str(tmp_path / "here"), second, 0.0) == path
    with pytest.raises(UserError, match="run-round2 was trained on other pseudo-labels"):
        pseudo_manifest(job, str(tmp_path / "here"), second, least + 1e-4)
    assert path.read_text() == text
    monkeypatch.setattr(pseudo, "finetune", lambda path, given: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=r"was trained on clips of .*here, which would be replaced"):
        pseudo.second_round(
            experiment,
            [f"run={tmp_path / 'run'}"],
            source=str(tmp_path / "there"),
            min_confidence=0.0,
        )
