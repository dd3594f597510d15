"""An evaluation's folder is its own: nothing else is overwritten, nothing stale stays beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from avssl.errors import UserError
from avssl.eval.place import check_model, claimed, replace_files

MODEL = {"audio": "a1", "video": "b2"}


def fill(folder: Path, *names: str, task: str = "knn", **encoders: str) -> None:
    record: dict[str, Any] = {"task": task, "model": {"encoders": encoders or MODEL}}

    def make(unfinished: Path) -> None:
        for name in names:
            (unfinished / name).write_text(name)

    replace_files(folder, record, make)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.mark.parametrize(
    "figures",
    [
        '{"untrained": {}, "stage2": {"retrieval": {}}}',  # of a training run
        '{"task": "knn"}',
        '{"task": "knn", "files": [3], "model": {"encoders": {}}}',
        "[]",
        "{",
        "",
    ],
)
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(
    tmp_path: Path, figures: str
) -> None:
    (tmp_path / "results.json").write_text(figures)
    with pytest.raises(UserError, match=r"it holds results\.json\): choose another folder"):
        with claimed(tmp_path, "knn"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == figures


def test_files_of_the_same_evaluation_are_replaced_and_stale_ones_go(tmp_path: Path) -> None:
    place = tmp_path / "new" / "out"
    with claimed(place, "knn"):
        fill(place, "tsne_audio.png", "classes.csv")
    (place / "notes.txt").write_text("mine")
    with claimed(place, "knn"):
        check_model(place, MODEL)
        check_model(place, {"audio": "a1"})
        fill(place, "umap_audio.png", "classes.csv")
    assert names(place) == {"results.json", "umap_audio.png", "classes.csv", "notes.txt"}


def test_another_task_or_model_is_refused(tmp_path: Path) -> None:
    with claimed(tmp_path, "knn"):
        fill(tmp_path, "tsne_audio.png")
    with pytest.raises(UserError, match="an evaluation by --task knn, not linear"):
        with claimed(tmp_path, "linear"):
            pass
    for other in ({"audio": "c3"}, {"audio": "a1", "video": "c3"}, {"audio_video": "d4"}):
        with pytest.raises(UserError, match="of another model"):
            check_model(tmp_path, other)
    assert names(tmp_path) == {"results.json", "tsne_audio.png"}


def test_two_evaluations_do_not_write_at_once(tmp_path: Path) -> None:
    with claimed(tmp_path, "knn"):
        with pytest.raises(UserError, match="another process is writing"):
            with claimed(tmp_path, "knn"):
                pass
    with claimed(tmp_path, "knn"):
        pass


def test_what_was_stopped_while_writing_leaves_the_earlier_files(tmp_path: Path) -> None:
    fill(tmp_path, "a.csv")
    before = (tmp_path / "results.json").read_text()

    def stopped(unfinished: Path) -> None:
        (unfinished / "b.csv").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_files(tmp_path, json.loads(before), stopped)
    assert (tmp_path / "results.json").read_text() == before
    assert not (tmp_path / "b.csv").exists()
    with claimed(tmp_path, "knn"):
        fill(tmp_path, "c.csv")
    assert names(tmp_path) == {"results.json", "c.csv"}


def test_a_record_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    place = tmp_path / "out"
    fill(place, "a.csv")
    record = json.loads((place / "results.json").read_text())
    record["files"] = ["../precious", "..", "gone", "a.csv"]
    (place / "results.json").write_text(json.dumps(record))
    fill(place, "b.csv")
    assert (tmp_path / "precious").exists() and names(place) == {"results.json", "b.csv"}
