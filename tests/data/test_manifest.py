"""Manifests: what survives a round trip, what is refused, and splits that depend on paths alone."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from avssl.data.manifest import Clip, Manifest, hash_split
from avssl.data.scan import folder_clips
from avssl.errors import UserError


def write(folder: Path, text: str) -> Path:
    file = folder / "manifest.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_round_trip(tmp_path: Path) -> None:
    clips = [
        Clip(path="a/-dash, comma.mp4", label="إستمرار", text='says "hi",\nthen more', split="val"),
        Clip(
            path="b.mp4", start=0.5, end=2.25, reader="decord", has_video=True, has_audio=False,
            duration=3.003, fps=29.97, frames=90, width=320, height=240, rotation=270,
            sound_offset=-0.0213, reason="sound: damaged", extra={"fold": "3"},
        ),
    ]  # fmt: skip
    Manifest(tmp_path, clips).write(tmp_path / "manifest.csv")
    again = Manifest.read(tmp_path / "manifest.csv")
    assert again.clips[1] == clips[1]
    assert again.clips[0] == replace(clips[0], extra={"fold": ""})
    assert [clip.scanned for clip in again.clips] == [False, True]


@pytest.mark.parametrize(
    "path", ["../x.mp4", "a/../../x.mp4", "/etc/passwd", "a\\..\\..\\x.mp4", "C:/x.mp4"]
)
@pytest.mark.parametrize("column", ["path", "wav"])
def test_rows_cannot_leave_the_folder(tmp_path: Path, path: str, column: str) -> None:
    good = "x.mp4," if column == "wav" else ","
    row = f"x.mp4,{path}" if column == "wav" else f"{path},"
    file = write(tmp_path, f"path,wav\n{good if column == 'wav' else 'x.mp4,'}\n{row}\n")
    with pytest.raises(UserError, match=r"manifest.csv, line 3: path .* outside"):
        Manifest.read(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\nx.mp4,a\n", "no column 'path'"),
        ("path,start\nx.mp4,soon\n", "line 2: column 'start' holds 'soon'"),
        ("path,frames\nx.mp4,nan\n", "line 2: column 'frames' holds 'nan'"),
        ("path,start,end\nx.mp4,2,1\n", "enclose nothing"),
        ("path,split\nx.mp4,dev\n", "split 'dev' is none of train, val, test"),
        ("path,label\nx.mp4,a,b\n", "more cells than columns"),
        ("path\n", "lists no clip"),
        ("path,label\n,a\n", "line 2: column 'path' is empty"),
        (f"path,text\nx.mp4,a\nx.mp4,{'a' * 140_000}\n", "line 3: this is no CSV"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Manifest.read(write(tmp_path, text))


def test_a_missing_manifest_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        Manifest.read(tmp_path / "none.csv")


def test_folder_names_are_labels_and_splits_follow_paths(tmp_path: Path) -> None:
    names = [f"{label}/{number:03d}.mp4" for label in ("cat", "dog") for number in range(100)]
    for name in [*names, "cat/000.wav", "dog/.hidden.mp4", "dog/notes.txt"]:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    manifest = Manifest(tmp_path, folder_clips(tmp_path, tmp_path)).with_splits()
    assert [clip.path for clip in manifest.clips] == names
    assert manifest.classes() == ["cat", "dog"]
    assert {clip.label for clip in manifest.clips[:100]} == {"cat"}
    counts = [sum(clip.split == split for clip in manifest.clips) for split in ("val", "test")]
    assert all(8 <= count <= 32 for count in counts)
    fewer = Manifest(tmp_path, manifest.clips[::3]).with_splits()
    assert [clip.split for clip in fewer.clips] == [hash_split(clip.path) for clip in fewer.clips]


def test_one_folder_gives_no_labels_and_splits_are_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.mp4").touch()
    assert [clip.label for clip in folder_clips(tmp_path, tmp_path)] == [""]
    clips = [Clip(path="a.mp4", split="test"), Clip(path="b.mp4", split="train")]
    assert Manifest(tmp_path, clips).with_splits().clips == clips
    clips.append(Clip(path="c.mp4"))
    with pytest.raises(UserError, match=r"1 of 3 rows have no split, the first is c\.mp4"):
        Manifest(tmp_path, clips).with_splits()


def test_a_link_to_a_folder_above_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "clips" / "cat").mkdir(parents=True)
    (tmp_path / "clips" / "cat" / "a.mp4").touch()
    (tmp_path / "clips" / "cat" / "up").symlink_to(tmp_path / "clips")
    found = folder_clips(tmp_path / "clips", tmp_path)
    assert [clip.path for clip in found] == ["clips/cat/a.mp4"]


def test_links_make_no_clip_twice_and_none_of_folders_above(tmp_path: Path) -> None:
    for name in ("home/clips/cat/a.mp4", "home/other/b.mp4", "far/one/c.mp4", "far/two/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = tmp_path / "home" / "clips"
    (source / "cat" / "up").symlink_to(tmp_path / "home")
    (source / "cat" / "root").symlink_to("/")
    (source / "a_cat").symlink_to(source / "cat")
    (source / "far").symlink_to(tmp_path / "far" / "one")
    (source / "far2").symlink_to(tmp_path / "far" / "one")
    (tmp_path / "far" / "one" / "up").symlink_to(tmp_path / "far")
    found = [clip.path for clip in folder_clips(source, source)]
    assert found == ["cat/a.mp4", "far/c.mp4"]


def test_a_folder_that_cannot_be_read_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train/cat/a.mp4", "train/dog/b.mp4", "train/cow/c.mp4", "val/cat/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refused(path: str) -> object:
        if Path(path).name in shut:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    shut = {"cow", "lost+found"}
    rows = folder_clips(tmp_path, tmp_path)
    assert [(clip.path, clip.label, clip.split) for clip in rows] == [
        ("train/cat/a.mp4", "cat", "train"), ("train/dog/b.mp4", "dog", "train"),
        ("val/cat/d.mp4", "cat", "val"), ("lost+found", "", "train"), ("train/cow", "", "train"),
    ]  # fmt: skip
    assert rows[-1].reason == "this folder cannot be read (Permission denied)" and rows[-1].scanned
    shut = {"train", "val"}
    with pytest.raises(UserError, match=r"no clip was found .*/train: this folder cannot be read"):
        folder_clips(tmp_path, tmp_path)


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path , label,label\na.mp4,cat,dog\n")
    with pytest.raises(UserError, match="more than one column named 'label'"):
        Manifest.read(tmp_path / "m.csv")


def test_numeric_labels_are_ordered_by_value(tmp_path: Path) -> None:
    clips = [Clip(path=f"{label}.mp4", label=label) for label in ("10", "9", "0")]
    assert Manifest(tmp_path, clips).classes() == ["0", "9", "10"]


def test_a_folder_outside_the_manifests_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="does not lie below"):
        folder_clips(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="no media file"):
        folder_clips(tmp_path / "a", tmp_path)
