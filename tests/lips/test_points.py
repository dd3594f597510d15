"""Landmark files of other detectors."""

import json
from pathlib import Path

import numpy as np
import pytest

from avssl.data.container import MediaError
from avssl.lips.points import landmark_file, read_landmarks

RNG = np.random.default_rng(0)


def test_the_three_formats_give_the_same(tmp_path: Path) -> None:
    points = RNG.uniform(0, 200, (4, 68, 2)).round(3)
    points[2] = np.nan
    np.save(tmp_path / "a.npy", points)
    shown = [None if np.isnan(one).any() else one.tolist() for one in points]
    (tmp_path / "a.json").write_text(json.dumps(shown))
    lines = [",".join(f"x{k},y{k}" for k in range(68))]
    lines += ["" if one is None else ",".join(str(v) for v in np.ravel(one)) for one in shown]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    for suffix in (".npy", ".json", ".csv"):
        assert np.array_equal(read_landmarks(tmp_path / f"a{suffix}"), points, equal_nan=True)


def test_a_mesh_becomes_the_68_points(tmp_path: Path) -> None:
    mesh = RNG.uniform(0, 200, (3, 478, 3))
    np.save(tmp_path / "a.npy", mesh)
    points = read_landmarks(tmp_path / "a.npy")
    assert points.shape == (3, 68, 2)
    # the mesh's own numbers of the corners of eyes and mouth
    for mine, theirs in {36: 33, 39: 133, 42: 362, 45: 263, 48: 61, 54: 291}.items():
        assert np.array_equal(points[:, mine], mesh[:, theirs, :2])


@pytest.mark.parametrize("shape", [(3, 106, 2), (3, 68), (0, 68, 2), (3, 68, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(MediaError, match=r"a\.npy"):
        read_landmarks(tmp_path / "a.npy")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "b.json").write_text('{"points": 3}')
    (tmp_path / "c.csv").write_text("1,2,3,4\n1,2\n1,,3,4\n")
    np.save(tmp_path / "d.npy", np.array([{"code": 1}]), allow_pickle=True)
    (tmp_path / "e.npy").write_bytes(b"")
    (tmp_path / "f.npy").write_bytes(b"PK\x03\x04")
    for name in ("a.npy", "b.json", "c.csv", "d.npy", "e.npy", "f.npy"):
        with pytest.raises(MediaError, match=name):
            read_landmarks(tmp_path / name)


def test_points_all_in_one_place_are_no_face(tmp_path: Path) -> None:
    points = RNG.uniform(0, 200, (4, 68, 2))
    points[1], points[2] = 0, (3, 5)
    np.save(tmp_path / "a.npy", points)
    found = read_landmarks(tmp_path / "a.npy")
    assert np.isnan(found).all((1, 2)).tolist() == [False, True, True, False]


def test_a_clip_finds_its_file_in_the_same_tree(tmp_path: Path) -> None:
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1" / "one.csv").write_text("1,2\n")
    assert landmark_file(tmp_path, "s1/one.mpg") == tmp_path / "s1" / "one.csv"
    with pytest.raises(MediaError, match="no landmarks"):
        landmark_file(tmp_path, "s2/one.mpg")
