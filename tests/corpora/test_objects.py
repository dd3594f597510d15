"""What a clip of `objects` promises: kinds that a still shows, motions that time alone shows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from avssl.data.corpora import ensure_corpus
from avssl.data.corpora.cache import find_corpus
from avssl.data.corpora.objects.motions import MOTIONS
from avssl.data.corpora.objects.picture import (
    FPS,
    FRAMES,
    SIZE,
    kind_and_motion,
    make_moving,
    make_picture,
)
from avssl.data.corpora.objects.silhouettes import SILHOUETTES
from avssl.data.manifest import Manifest
from avssl.data.media import read_pictures

_TIME = np.linspace(0, 1, FRAMES)


def test_kinds_and_motions_are_balanced_and_independent() -> None:
    sizes = find_corpus("objects")[1]
    assert sizes == {"train": 4160, "val": 320, "test": 960}
    for split, count in sizes.items():
        pairs = Counter(kind_and_motion(index) for index in range(count))
        assert len(pairs) == 160 and max(pairs.values()) - min(pairs.values()) == 0
        moving = make_moving(split, 16 * 7 + 3)
        assert (moving.kind, moving.motion) == kind_and_motion(16 * 7 + 3) == ("bolt", "grow")


def test_a_clip_is_a_function_of_seed_split_and_index() -> None:
    shown = [
        make_picture(make_moving(split, index, seed=seed)).tobytes()
        for split, index, seed in (
            ("train", 5, 0),
            ("train", 5, 0),
            ("test", 5, 0),
            ("train", 21, 0),
            ("train", 5, 1),
        )
    ]
    assert shown[0] == shown[1] and len(set(shown)) == 4


@pytest.mark.parametrize("kind", SILHOUETTES)
def test_a_silhouette_fills_its_square_and_its_kind_varies(kind: str) -> None:
    drawn = [SILHOUETTES[kind](np.random.default_rng(seed)) for seed in range(20)]
    for parts in drawn:
        points = np.concatenate([points for points, adds in parts if adds])
        assert np.abs(points).max() <= 1.1
        assert np.ptp(points, axis=0).max() > 1.4
    assert len({str([points.round(3).tolist() for points, _ in parts]) for parts in drawn}) == 20


def test_motions_do_what_they_are_called() -> None:
    tracks = {name: make(_TIME, np.random.default_rng(3)) for name, make in MOTIONS.items()}

    def way(name: str, part: str) -> float:
        values = getattr(tracks[name], part)
        return float(values[-1] - values[0])

    assert way("left", "x") < -0.2 < 0.2 < way("right", "x")
    assert way("up", "y") < -0.2 < 0.2 < way("down", "y")
    assert way("anticlockwise", "turn") < -0.8 < 0.8 < way("clockwise", "turn")
    assert way("shrink", "size") < -0.2 < 0.2 < way("grow", "size")
    assert np.ptp(tracks["shake"].x) > 0.08 and abs(tracks["shake"].x.mean()) < 0.03
    for name, track in tracks.items():
        moved = {part for part in ("x", "y", "size", "turn") if np.ptp(getattr(track, part))}
        assert len(moved) == (name != "rest")
        # the middle of a clip, which a still of it shows, tells nothing of its motion
        halves = [getattr(track, part)[7:9].mean() for part in ("x", "y", "turn")]
        assert name == "shake" or np.abs(halves).max() < 1e-9


def test_the_object_moves_in_the_picture() -> None:
    found = {}
    for motion, index in (("left", 1), ("right", 2), ("up", 3), ("down", 4)):
        places = []
        for clip in range(4):
            frames = make_picture(make_moving("train", 160 * clip + 16 * index + 9)).astype(float)
            light = frames.sum(3) - np.median(frames.sum(3), axis=(1, 2), keepdims=True)
            weight = np.maximum(light, 60) - 60  # objects are lighter than what is around them
            v, u = np.mgrid[:SIZE, :SIZE]
            mass = weight.sum((1, 2))
            places.append([(weight * w).sum((1, 2)) / mass for w in (u, v)])
        found[motion] = np.mean(places, axis=0)[:, [0, -1]]  # [x and y, first and last]
    assert found["left"][0, 1] < found["left"][0, 0] - 5
    assert found["right"][0, 1] > found["right"][0, 0] + 5
    assert found["up"][1, 1] < found["up"][1, 0] - 5
    assert found["down"][1, 1] > found["down"][1, 0] + 5


def test_the_files_hold_the_pictures(tmp_path: Path) -> None:
    manifest = Manifest.read(ensure_corpus("objects-48", tmp_path))
    assert Counter(clip.split for clip in manifest.clips) == {"train": 16, "val": 16, "test": 16}
    clip = manifest.clips[20]
    assert (clip.split, clip.label, clip.extra) == ("val", "cross", {"motion": "rest"})
    assert (clip.has_audio, clip.frames, clip.fps, clip.duration) == (False, FRAMES, FPS, 2.0)
    frames = read_pictures(manifest.file(clip), clip, np.arange(FRAMES) / FPS)
    drawn = make_picture(make_moving("val", 4))
    assert frames.shape == drawn.shape
    assert np.abs(frames.astype(int) - drawn).mean() < 6
    assert not list(tmp_path.rglob("*.part.mp4"))
