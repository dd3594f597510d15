"""Which clips an evaluation fits to and scores, and what it refuses."""

from pathlib import Path

import pytest

from avssl.data.config import DataConfig, FbankConfig
from avssl.errors import UserError
from avssl.eval.clips import EvalClips, open_clips

HEADER = "path,label,split,fold,has_video,has_audio,duration,sound_duration,start,end"


def write(folder: Path, *rows: str) -> DataConfig:
    """A manifest of clips that count as scanned; rows are "path,label,split,fold[,start,end]"."""
    lines = [HEADER]
    for row in rows:
        cells = [*row.split(","), "", ""][:6]
        lines.append(",".join([*cells[:4], "0", "1", "10", "10", *cells[4:]]))
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return DataConfig(source=str(folder), workers=0, inputs={"audio": FbankConfig()})


def paths(clips: EvalClips, rows: list[int]) -> list[str]:
    return [clips.manifest.clips[row].path for row in rows]


def test_splits(tmp_path: Path) -> None:
    data = write(tmp_path, "a.wav,x,train,1", "b.wav,y,train,1", "c.wav,y,test,2", "d.wav,,test,2")
    clips = open_clips(data)
    [part] = clips.parts
    assert (paths(clips, part.fit), paths(clips, part.score)) == (["a.wav", "b.wav"], ["c.wav"])
    assert clips.classes == ["x", "y"] and clips.labels.tolist() == [0, 1, 1, -1]
    assert ["d.wav" in note for note in clips.notes] == [True, False]
    assert clips.notes[1].startswith("of 2 folds, fold 2 alone is scored")


def test_each_fold_is_scored_once_by_the_others(tmp_path: Path) -> None:
    rows = "a.wav,x,,1", "b.wav,y,,1", "c.wav,x,,2", "d.wav,y,,10", "e.wav,x,,10"
    clips = open_clips(write(tmp_path, *rows), folds="fold")
    assert [part.name for part in clips.parts] == ["fold 1", "fold 2", "fold 10"]
    assert sorted(row for part in clips.parts for row in part.score) == [0, 1, 2, 3, 4]
    for part in clips.parts:
        assert sorted(part.fit + part.score) == [0, 1, 2, 3, 4]


def test_several_labels_are_targets(tmp_path: Path) -> None:
    data = write(tmp_path, "a.wav,dog;rain,train,", "b.wav,cat,train,", "c.wav,dog; cat,test,")
    clips = open_clips(data, multi_label=True)
    assert clips.classes == ["cat", "dog", "rain"]
    assert clips.targets.tolist() == [[0, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert clips.labels.tolist() == [-1, 0, -1]


def test_retrieval_needs_no_labels(tmp_path: Path) -> None:
    clips = open_clips(write(tmp_path, "a.wav,,test,", "b.wav,,train,"), fit=None)
    assert paths(clips, clips.rows) == ["a.wav"]
    data = write(tmp_path, "a.wav,,test,", "b.wav,,train,")
    assert len(open_clips(data, fit=None, score="all").rows) == 2


GOOD = ("a.wav,x,train,1", "b.wav,y,train,2", "c.wav,x,test,2")


@pytest.mark.parametrize(
    "rows, options, sentence",
    [
        (("a.wav,,train,", "b.wav,,test,"), {}, "no clip .* has a label"),
        (("a.wav,x,train,", "b.wav,x,test,"), {}, "one class, 'x'"),
        (("a.wav,x,train,", "b.wav,y,train,", "c.wav,,test,"), {}, "left to be scored"),
        (GOOD, {"score": "val"}, r"split 'val' \(it has train 2, val 0, test 1\)"),
        ((*GOOD, "a.wav,x,test,"), {}, "1 clips are fitted to and scored in test .*a.wav"),
        ((*GOOD, "a.wav,x,test,1"), {"folds": "fold"}, None),
        ((*GOOD, "a.wav,x,test,2"), {"folds": "fold"}, "1 clips are fitted to and scored"),
        (GOOD, {"folds": "part"}, "no column 'part'.*fold"),
        ((*GOOD, "d.wav,x,test,"), {"folds": "fold"}, "1 of 4 clips .* have no fold.*d.wav"),
        (("a.wav,x,,1", "b.wav,y,,1"), {"folds": "fold"}, "one fold, '1'"),
        (("a.wav,x;y,train,", "b.wav,y,test,"), {}, "--multi-label"),
    ],
)
def test_refusals(
    tmp_path: Path, rows: tuple[str, ...], options: dict[str, str], sentence: str | None
) -> None:
    data = write(tmp_path, *rows)
    if sentence is None:
        open_clips(data, **options)  # type: ignore[arg-type]
        return
    with pytest.raises(UserError, match=sentence):
        open_clips(data, **options)  # type: ignore[arg-type]


def test_stretches_of_one_file_may_part(tmp_path: Path) -> None:
    rows = ("a.wav,x,train,,0,4", "b.wav,y,train,", "a.wav,x,test,,4,8")
    assert len(open_clips(write(tmp_path, *rows)).parts) == 1
    rows = (*rows[:2], "a.wav,x,test,,3.9,8")
    with pytest.raises(UserError, match="fitted to and scored"):
        open_clips(write(tmp_path, *rows))
