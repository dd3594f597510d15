"""From videos to a folder ready for training, through the command line's own functions."""

import csv
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from avssl.data.manifest import Clip, Manifest
from avssl.data.media import read_pictures
from avssl.errors import UserError
from avssl.files import locked
from avssl.lips import prepare as preparing
from avssl.lips.layouts import read_layout
from avssl.lips.prepare import Settings, prepare_lips
from avssl.lips.write import write_video

Make = Callable[..., Any]


def run(
    source: Path, target: Path, points: Path | None, *, retry: bool = False, **settings: Any
) -> None:
    """Prepare a folder or manifest in one process."""
    prepare_lips(
        read_layout(source, "manifest", longest=24.0),
        target,
        Settings(landmarks=str(points or ""), **settings),
        workers=1,
        limit=60,
        retry=retry,
    )


def crops(target: Path, clip: Clip) -> np.ndarray:
    """All pictures of a prepared clip [T, 96, 96, 3]."""
    assert clip.frames
    return read_pictures(target / clip.path, clip, np.arange(clip.frames) / 25)


def skipped(target: Path) -> dict[str, str]:
    """Reasons by path."""
    with open(target / "skipped.csv", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, write_talk: Make, write_points: Make, pose: Make
) -> Path:
    """Talks of all kinds in `talks`, with the true landmarks in `points`."""
    folder = tmp_path_factory.mktemp("lips")
    nodding = [
        [
            pose(
                x=150 + 10 * np.sin(k / 4),
                y=120 + k / 2,
                scale=0.7 + k / 200,
                turn=20 * np.sin(k / 8),
            )
        ]
        for k in range(30)
    ]
    still = [[pose()]]
    talks = {
        "nodding.mp4": {"poses": nodding},
        "fast.mp4": {"poses": still * 36, "rate": 30},
        "old.mpg": {"poses": still * 30, "codec": "mpeg1video"},
        "silent.mp4": {"poses": still * 10, "sound": False},
        "leaving.mp4": {"poses": still * 12 + [[]] * 18},
        "winking.mp4": {"poses": still * 12 + [[]] * 4 + still * 4},
        "broken.mp4": {"poses": still * 30},
        "unknown.mp4": {"poses": still * 5, "sound": False},
    }
    for name, settings in talks.items():
        write_talk(folder / "talks" / name, **settings)
        write_points(folder / "points" / name.replace(name[-4:], ".npy"), settings["poses"])
    whole = folder / "talks" / "broken.mp4"
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "points" / "unknown.npy").unlink()
    clips = [
        Clip(path=name, text=f"text of {name}", label="x", split="train", extra={"speaker": "s1"})
        for name in talks
    ]
    Manifest(folder / "talks", clips).write(folder / "talks" / "manifest.csv")
    return folder


@pytest.fixture(scope="module")
def prepared(source: Path) -> Path:
    """The folder of crops."""
    run(source / "talks", source / "crops", source / "points")
    return source / "crops"


@pytest.fixture
def clips(prepared: Path) -> dict[str, Clip]:
    """Rows of the folder of crops by path."""
    return {clip.path: clip for clip in Manifest.read(prepared / "manifest.csv").clips}


def test_the_sheet_shows_each_clip_with_its_landmarks(
    prepared: Path, clips: dict[str, Clip]
) -> None:
    with Image.open(prepared / "sheet.jpg") as file:
        sheet = np.asarray(file.convert("RGB")).astype(int)
    rows = np.split(sheet, len(clips))
    assert len(rows) == 5
    for row in rows:
        cells = row[16:]
        assert cells.mean() < 240  # white is what a clip that cannot be read leaves
        green = (cells[..., 1] - cells[..., [0, 2]].max(-1)) > 80
        assert green.any()


def test_skipped_clips_are_tried_again_when_asked(
    source: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, tried = preparing._prepared, []

    def noting(todo: Sequence[Any], *given: Any, **named: Any) -> Any:
        tried.append({job.name for job in todo})
        return done(todo, *given, **named)

    monkeypatch.setattr(preparing, "_prepared", noting)
    for retry in (False, True):
        run(source / "talks", prepared, source / "points", retry=retry)
    assert tried == [set(), {"leaving", "broken", "unknown"}]


def test_the_manifest_is_ready_for_training(clips: dict[str, Clip]) -> None:
    assert set(clips) == {f"{name}.mp4" for name in "nodding fast old silent winking".split()}
    for path, clip in clips.items():
        assert (clip.width, clip.height, clip.fps, clip.has_video) == (96, 96, 25, True)
        assert clip.has_audio == (path != "silent.mp4")
        assert clip.text.startswith(f"text of {path[:-4]}")
        assert (clip.label, clip.split, clip.extra) == ("x", "train", {"speaker": "s1"})
    assert clips["fast.mp4"].frames == 30  # 36 pictures at 30 a second
    assert clips["old.mp4"].frames == 30


def test_every_skipped_clip_has_its_reason(prepared: Path, clips: dict[str, Clip]) -> None:
    reasons = skipped(prepared)
    assert set(reasons) == {"leaving.mp4", "broken.mp4", "unknown.mp4"}
    assert "missing in pictures 12 to 29 of 30" in reasons["leaving.mp4"]
    assert "damaged" in reasons["broken.mp4"]
    assert "unknown.npy" in reasons["unknown.mp4"]


def test_crops_of_a_moving_head_stand_still(prepared: Path, clips: dict[str, Clip]) -> None:
    shown = crops(prepared, clips["nodding.mp4"]).astype(float)[4:-4]
    assert np.abs(shown - shown.mean(0)).mean() < 4  # grey levels; the head turns by 20 degrees
    red = shown[..., 0] - shown[..., 1:].mean(-1)
    lips = red > 85  # nothing else is as red
    rows, columns = (np.nonzero(lips.any(0))[k] for k in (0, 1))
    assert rows.mean() == pytest.approx(47.5, abs=2.5)
    assert columns.mean() == pytest.approx(47.5, abs=2.5)
    assert np.ptp(columns) == pytest.approx(48, abs=5)


def test_sound_has_640_samples_for_each_picture(prepared: Path, clips: dict[str, Clip]) -> None:
    for clip in clips.values():
        if clip.has_audio:
            sound, rate = soundfile.read(prepared / clip.wav)
            assert (len(sound), rate) == ((clip.frames or 0) * 640, 16000)


def test_crops_are_kept_without_loss(tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", crops, quality=0)
    with av.open(str(tmp_path / "a.mp4")) as file:
        stored = [frame.to_ndarray() for frame in file.decode(video=0)]
    assert len(stored) == 6
    for one, crop in zip(stored, crops, strict=True):
        frame = av.VideoFrame.from_ndarray(crop, format="rgb24")
        assert np.array_equal(one, frame.reformat(format="yuv420p").to_ndarray())
    write_video(tmp_path / "b.mp4", crops, quality=30)
    assert (tmp_path / "b.mp4").stat().st_size < (tmp_path / "a.mp4").stat().st_size / 2


def test_a_second_call_makes_nothing_again(
    source: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in prepared.rglob("*.mp4")}
    manifest = (prepared / "manifest.csv").read_text()
    run(source / "talks", prepared, source / "points")
    assert {file: file.stat().st_mtime_ns for file in prepared.rglob("*.mp4")} == before
    assert (prepared / "manifest.csv").read_text() == manifest
    said = capsys.readouterr().out
    assert "8 of 8 files are prepared already" in said
    assert "5 clips prepared" in said and "1 without sound), 3 skipped" in said
    (prepared / "silent.mp4").unlink()
    run(source / "talks", prepared, source / "points")
    assert (prepared / "silent.mp4").is_file()


def test_other_settings_need_another_folder(source: Path, prepared: Path) -> None:
    with pytest.raises(UserError, match=r"prepared with --quality 0, not 18: name another folder"):
        run(source / "talks", prepared, source / "points", quality=18)
    with pytest.raises(UserError, match="folder of the clips themselves"):
        run(source / "talks", source / "talks", source / "points")
    with pytest.raises(UserError, match=r"crops is inside .*talks"):
        run(source / "talks", source / "talks" / "crops", source / "points")


def test_one_process_at_a_time(source: Path, prepared: Path) -> None:
    with locked(prepared, ""), pytest.raises(UserError, match="another process prepares"):
        run(source / "talks", prepared, source / "points")


def test_other_files_in_the_way_stay(source: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path\nprecious.mp4\n")
    with pytest.raises(UserError, match=r"holds a manifest\.csv of other clips"):
        run(source / "talks", tmp_path, source / "points")
    with pytest.raises(UserError, match=r"manifest\.csv is a file"):
        run(source / "talks", tmp_path / "manifest.csv", source / "points")
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.csv"]
    assert (tmp_path / "manifest.csv").read_text() == "path\nprecious.mp4\n"


@pytest.mark.parametrize(("scale", "shift"), [(1 / 320, 0), (1, 1000), (1, -1000)])
def test_landmarks_that_are_not_pixels_of_the_clip_skip_it(
    source: Path, tmp_path: Path, scale: float, shift: float
) -> None:
    (tmp_path / "points").mkdir()
    points = np.load(source / "points" / "nodding.npy")
    np.save(tmp_path / "points" / "nodding.npy", points * scale + shift)
    clips = [Clip(path="nodding.mp4", split="train")]
    Manifest(source / "talks", clips).write(source / "talks" / "one.csv")
    with pytest.raises(UserError, match=r"none of the clips in .*: .*skipped\.csv has the reasons"):
        run(source / "talks" / "one.csv", tmp_path / "crops", tmp_path / "points")
    reason = skipped(tmp_path / "crops")["nodding.mp4"]
    assert "is no face in a picture of 320 x 240: they must be in its pixels" in reason


def test_long_clips_without_text_are_cut_evenly(source: Path, tmp_path: Path) -> None:
    talks = source / "talks"
    clips = [Clip(path="nodding.mp4", split="train"), Clip(path="fast.mp4", text="a", split="val")]
    Manifest(talks, clips).write(talks / "some.csv")
    run(talks / "some.csv", tmp_path / "crops", source / "points", longest=0.5)
    found = Manifest.read(tmp_path / "crops" / "manifest.csv").clips
    assert [clip.path for clip in found] == [f"nodding@00{k}.mp4" for k in range(3)] + ["fast.mp4"]
    assert [clip.frames for clip in found] == [10, 10, 10, 30]
    assert found[1].extra == {"source_start": "0.4", "source_end": "0.8"}


def test_stretches_of_one_file_become_clips(source: Path, tmp_path: Path) -> None:
    talks = source / "talks"
    clips = [
        Clip(path="nodding.mp4", start=0.2, end=0.6, text="a", split="train"),
        Clip(path="nodding.mp4", start=0.6, end=9.0, text="b", split="train"),
        Clip(path="nodding.mp4", start=5.0, end=9.0, text="c", split="train"),
    ]
    Manifest(talks, clips).write(talks / "parts.csv")
    run(talks / "parts.csv", tmp_path / "crops", source / "points")
    found = Manifest.read(tmp_path / "crops" / "manifest.csv").clips
    assert [(clip.text, clip.frames, clip.start) for clip in found] == [
        ("a", 10, None),
        ("b", 15, None),
    ]
    assert "the picture ends at 1.2 s" in skipped(tmp_path / "crops")["nodding.mp4"]


def test_landmarks_that_are_no_face_skip_the_clip(source: Path, tmp_path: Path) -> None:
    (tmp_path / "points").mkdir()
    points = np.load(source / "points" / "nodding.npy")
    np.save(tmp_path / "points" / "nodding.npy", points[..., ::-1])  # y before x
    (tmp_path / "points" / "silent.json").write_text(f"[[[{10**400}, 1]]]")
    clips = [Clip(path=name, split="train") for name in ("nodding.mp4", "silent.mp4")]
    Manifest(source / "talks", clips).write(source / "talks" / "two.csv")
    with pytest.raises(UserError, match="none of the clips"):
        run(source / "talks" / "two.csv", tmp_path / "crops", tmp_path / "points")
    reasons = skipped(tmp_path / "crops")
    assert "nodding.npy have not the shape of a face (off by " in reasons["nodding.mp4"]
    assert "the landmarks silent.json cannot be read (" in reasons["silent.mp4"]


def test_members_of_shards_are_prepared_and_stills_are_not(
    source: Path, prepared: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "still.png")
    with tarfile.open(tmp_path / "in" / "talks.tar", "w") as tar:
        for path in (*(source / "talks" / n for n in ("nodding.mp4", "old.mpg")),
                     tmp_path / "still.png"):  # fmt: skip
            tar.add(path, path.name)
    shutil.copytree(source / "points", tmp_path / "points" / "talks.tar")
    run(tmp_path / "in", tmp_path / "out", tmp_path / "points")
    made = {clip.path: clip for clip in Manifest.read(tmp_path / "out" / "manifest.csv").clips}
    assert set(made) == {"talks.tar/nodding.mp4", "talks.tar/old.mp4"}
    assert skipped(tmp_path / "out") == {"talks.tar/still.png": "is a still"}
    for path in made:
        loose = prepared / Path(path).name
        assert (tmp_path / "out" / path).read_bytes() == loose.read_bytes()


def test_nothing_prepared_is_an_error(source: Path, tmp_path: Path) -> None:
    talks = source / "talks"
    Manifest(talks, [Clip(path="broken.mp4", split="train")]).write(talks / "bad.csv")
    with pytest.raises(UserError, match="none of the clips"):
        run(talks / "bad.csv", tmp_path / "crops", source / "points")
    assert not (tmp_path / "crops" / "manifest.csv").exists()


def test_another_source_needs_another_folder(
    source: Path, prepared: Path, tmp_path: Path, write_talk: Make, pose: Make
) -> None:
    write_talk(tmp_path / "others" / "nodding.mp4", [[pose()]] * 5)
    before = (prepared / "manifest.csv").read_text()
    with pytest.raises(UserError, match=r"holds crops of the clips in \.\./talks .*name another"):
        run(tmp_path / "others", prepared, source / "points")
    assert (prepared / "manifest.csv").read_text() == before


def test_no_two_clips_get_the_same_crops(source: Path, tmp_path: Path) -> None:
    talks = tmp_path / "talks"
    talks.mkdir()
    names = ["a.mp4", "a@000.mp4", "ok.mp4", "ok.mkv", "ok.mkv.mp4"]
    points = tmp_path / "points"
    points.mkdir()
    for name in names:
        talk = "nodding" if name == "a.mp4" else "silent"
        (talks / name).symlink_to(source / "talks" / f"{talk}.mp4")
        if not (points / name).with_suffix(".npy").exists():
            (points / name).with_suffix(".npy").symlink_to(source / "points" / f"{talk}.npy")
    clips = [Clip(path=name, split="train") for name in names]
    Manifest(talks, clips).write(talks / "manifest.csv")
    run(talks, tmp_path / "crops", points, longest=0.8)
    found = Manifest.read(tmp_path / "crops" / "manifest.csv").clips
    assert [(clip.path, clip.frames) for clip in found] == [
        ("a@000.mp4", 15),
        ("a@001.mp4", 15),
        ("a@000.mp4.mp4", 10),
        ("ok.mp4.mp4", 10),
        ("ok.mkv.mp4", 10),
        ("ok.mkv.mp4.mp4", 10),
    ]
