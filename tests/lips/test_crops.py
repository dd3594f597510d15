"""The detector on drawn faces, from a file to crops."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avssl.data.manifest import Clip
from avssl.data.probe import probe_clip
from avssl.errors import UserError
from avssl.lips import mouth_crops
from avssl.lips.crops import cropped
from avssl.lips.detect import found_faces
from avssl.lips.frames import regular_pictures

Make = Callable[..., Any]


@pytest.mark.usefixtures("detector")
def test_landmarks_are_found_where_the_face_is_drawn(
    tmp_path: Path, write_talk: Make, pose: Make
) -> None:
    poses = [pose(x=160 + 2 * k, turn=-15 + 3 * k, opening=k % 5) for k in range(12)]
    talk = write_talk(tmp_path / "a.mp4", [[one] for one in poses])
    mouth = cropped(talk, probe_clip(tmp_path, Clip(path="a.mp4")))
    assert mouth.crops.shape == (12, 96, 96, 3)
    corners = mouth.landmarks[:, [48, 54]]  # [T, 2, 2]
    assert corners.mean(1) == pytest.approx(np.full((12, 2), 47.5), abs=5)
    tilt = np.diff(corners, axis=1)[:, 0]
    assert np.degrees(np.arctan2(tilt[:, 1], tilt[:, 0])) == pytest.approx(np.zeros(12), abs=4)
    red = mouth.crops.astype(float)[..., 0] - mouth.crops[..., 1:].mean(-1)
    for lips in red > 85:
        assert np.mean(np.nonzero(lips), axis=1) == pytest.approx([47.5, 47.5], abs=5)


@pytest.mark.usefixtures("detector")
def test_small_faces_in_wide_pictures_are_found(
    tmp_path: Path, write_talk: Make, pose: Make
) -> None:
    shown = [pose(x=500, y=90, scale=0.25)]
    write_talk(tmp_path / "a.mp4", [shown] * 5, size=(640, 180), sound=False)
    faces = found_faces(tmp_path / "a.mp4", probe_clip(tmp_path, Clip(path="a.mp4")))
    assert [len(one) for one in faces] == [1] * 5
    assert faces[0][0].box[:2] == pytest.approx([500, 90], abs=12)


@pytest.mark.usefixtures("detector")
def test_bad_clips_are_refused_with_a_sentence(
    tmp_path: Path, write_talk: Make, pose: Make
) -> None:
    left, right = pose(x=90, scale=0.7), pose(x=230, scale=0.65)
    write_talk(tmp_path / "two.mp4", [[left, right]] * 5, sound=False)
    with pytest.raises(UserError, match=r"two\.mp4: 2 faces of like size"):
        mouth_crops(tmp_path / "two.mp4")
    small = pose(x=270, y=60, scale=0.35)
    write_talk(tmp_path / "one.mp4", [[pose(x=110), small]] * 5, sound=False)
    assert mouth_crops(tmp_path / "one.mp4").shape == (5, 96, 96, 3)
    write_talk(tmp_path / "none.mp4", [[]] * 5, sound=False)
    with pytest.raises(UserError, match=r"none\.mp4: no face was found"):
        mouth_crops(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"text\.mp4: damaged"):
        mouth_crops(tmp_path / "text.mp4")
    with pytest.raises(UserError, match=r"gone\.mp4: cannot be read"):
        mouth_crops(tmp_path / "gone.mp4")


@pytest.mark.usefixtures("detector")
def test_a_stretch_gives_the_pictures_of_that_stretch(
    tmp_path: Path, write_talk: Make, pose: Make
) -> None:
    write_talk(tmp_path / "a.mp4", [[pose(opening=2 * (k // 2))] for k in range(12)], sound=False)
    whole, part = (
        mouth_crops(tmp_path / "a.mp4"),
        mouth_crops(tmp_path / "a.mp4", start=0.2, end=0.4),
    )
    assert part.shape == (5, 96, 96, 3)
    distance = [np.abs(part[2].astype(float) - one).mean() for one in whole]
    assert abs(int(np.argmin(distance)) - 7) <= 1


def test_without_the_package_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from avssl.lips import mesh

    monkeypatch.setattr(mesh, "_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'avssl\[lips\]'"):
        mesh.model_files()


def test_late_stretches_are_the_same_with_every_reader(
    tmp_path: Path, write_talk: Make, pose: Make
) -> None:
    poses = [[pose(x=60 + 12 * (k % 4), y=60, scale=0.4)] for k in range(270)]
    write_talk(tmp_path / "a.mp4", poses, sound=False, size=(160, 120))
    clip = probe_clip(tmp_path, Clip(path="a.mp4", start=10.4, end=10.8))
    whole = regular_pictures(tmp_path / "a.mp4", replace(clip, start=0), size=(160, 120))
    right = list(whole)[260:270]
    for reader in ("pyav", "decord", "pyav-linear"):
        part = replace(clip, reader=reader)
        late = list(regular_pictures(tmp_path / "a.mp4", part, size=(160, 120)))
        assert len(late) == 10
        for one, other in zip(late, right, strict=True):
            assert np.abs(one.astype(int) - other).mean() < 2  # the next picture is 4 away
