"""The picture of a talking mouth: soft-edged shapes over a face, some frames at a time.

T frames, t frames of one round, S pixels a side; head coordinates as in `mouth.py`.
"""

from __future__ import annotations

import numpy as np

from avssl.data.corpora.talking.face import Face
from avssl.data.corpora.talking.mouth import Mouth, edge, hill
from avssl.data.corpora.talking.pose import CLENCH, ROUNDING, TIP, TONGUE
from avssl.data.corpora.talking.skin import Skin

SIZE = 96
FPS = 25
_TOGETHER = 4  # frames at a time: what a processor's cache holds
_DARK, _SHINE = (38.0, 10.0, 12.0), (255.0, 250.0, 245.0)


def make_picture(face: Face, pose: np.ndarray) -> np.ndarray:
    """uint8 [T, SIZE, SIZE, 3] of a pose track [T, K], see `pose.py`."""
    colours = np.array([face.lips, face.teeth, face.tongue, _DARK, _SHINE], dtype=np.float32)
    bare = np.array(face.skin, dtype=np.float32)[:, None, None, None]
    sway, skin = _sway(face, len(pose)), Skin(face)
    frames = np.empty((3, len(pose), SIZE, SIZE), dtype=np.float32)
    for first in range(0, len(pose), _TOGETHER):
        now = slice(first, first + _TOGETHER)
        x, y = _head(face, sway[now])  # [t, S, S] each
        mouth = Mouth.of(face, pose[now], x)
        rounding = pose[now, ROUNDING].astype(np.float32)[:, None, None]
        frames[:, now] = bare * skin.shade(mouth, rounding, x, y)
        box = mouth.box(y)
        amounts, uncovered = _inside(mouth.within(box), pose[now], x[box], y[box])
        part = frames[:, now][box]  # [3, t, h, w]
        part *= uncovered
        part += np.tensordot(colours, amounts, axes=(0, 0))
    return _camera(face, frames)


def _sway(face: Face, count: int) -> np.ndarray:
    """Slow motion of the head: x, y, tilt and zoom about their means, [T, 4]."""
    times = np.arange(count)[:, None] / FPS
    amplitude, rate, phase = face.sway.T
    return amplitude * np.sin(2 * np.pi * rate * times + phase)


def _head(face: Face, sway: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Head coordinates of every pixel, float32 [t, S, S]."""
    v, u = np.mgrid[:SIZE, :SIZE].astype(np.float32) - np.float32(SIZE / 2 - 0.5)
    moved = sway.T.astype(np.float32)[:, :, None, None]
    u = u - (face.place[0] + moved[0])  # [t, S, S]
    v = v - (face.place[1] + moved[1])
    angle, zoom = face.tilt + moved[2], face.zoom * (1 + moved[3])
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    return cosine * u + sine * v, cosine * v - sine * u


def _inside(
    mouth: Mouth, pose: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Amounts of lips, teeth, tongue, dark and shine [5, t, h, w], and uncovered skin [t, h, w]."""
    close, rise, out = np.clip(pose[:, [CLENCH, TONGUE, TIP]], 0, 1).T.astype(np.float32)[
        :, :, None, None
    ]
    rounding = pose[:, ROUNDING].astype(np.float32)[:, None, None]
    side = np.abs(mouth.across)
    body = edge(1 - side, 0.04)
    hole = edge(y - mouth.inner_upper) * edge(mouth.inner_lower - y) * body
    lips = edge(y - mouth.outer_upper, 1.6) * edge(mouth.outer_lower - y, 1.8) * body
    lips = lips * (1 - hole)

    # the upper teeth stay with the head behind lips that protrude, the lower ones go with the jaw
    end = np.maximum(1.5 - 1.2 * side**2, -1) - 5 * rounding * (1 - close)
    upper = edge(end - y, 1.2) * edge(0.72 - side, 0.1)
    low = (1 - close) * (mouth.bottom - 1.8) + close * (end + 0.6)
    lower = edge(y - low, 1.2) * edge(0.62 - side, 0.1)
    tip = out * edge(1 - (x / 9) ** 2 - ((y - 1.0 - 0.3 * mouth.gap) / 5) ** 2, 0.5)
    teeth = np.maximum(upper, 0.85 * lower) * (1 - tip)
    crown = mouth.top + mouth.gap * (0.62 - 0.34 * rise) + 9 * side**2
    tongue = edge(y - crown, 2.0) * edge(0.75 - side, 0.3)
    tongue = np.maximum(tongue * (1 - teeth), tip)

    lit = hole * (0.4 + 0.5 * edge(y - mouth.inner_upper, 7.0))  # the upper lip's shadow
    amounts = np.empty((5, *x.shape), dtype=np.float32)
    amounts[0] = lips * _lip_light(mouth, y)
    amounts[1] = lit * teeth * (1 - 0.12 * hill(np.sin(np.pi / 5.2 * x), 0.35))
    amounts[2] = lit * tongue
    amounts[3] = hole * (1 - teeth) * (1 - tongue)
    wet = (y - mouth.inner_lower) / np.maximum(mouth.outer_lower - mouth.inner_lower, 1)
    amounts[4] = 0.16 * lips * hill(wet - 0.4, 0.22) * hill(mouth.across - 0.1, 0.35)
    return amounts, 1 - lips - hole


def _lip_light(mouth: Mouth, y: np.ndarray) -> np.ndarray:
    """Upper lip darker than the lower, both darkest where they meet."""
    seam = np.minimum(np.abs(y - mouth.inner_upper), np.abs(y - mouth.inner_lower))
    is_lower = edge(y - 0.5 * (mouth.inner_upper + mouth.inner_lower), 1.5)
    return (0.86 + 0.18 * is_lower) * (1 - 0.45 * hill(seam, 1.1))


def _camera(face: Face, frames: np.ndarray) -> np.ndarray:
    """uint8 [T, S, S, 3] of [3, T, S, S]: exposure, and random crops of one field of noise."""
    rng = np.random.default_rng(face.seed + 1)
    field = face.noise * rng.standard_normal((3, SIZE + 32, SIZE + 32), dtype=np.float32)
    frames *= np.float32(face.light[0])
    for frame, (top, left) in enumerate(rng.integers(0, 32, (frames.shape[1], 2))):
        frames[:, frame] += field[:, top : top + SIZE, left : left + SIZE]
    pixels = np.clip(frames, 0, 255, out=frames).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 3, 0))
