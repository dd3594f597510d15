"""Ten motions, seen over time alone: the middle picture of a clip does not tell them apart.

A motion gives, for every picture of a clip, where the object is, how large and how it is turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Track:
    """How an object moves, each [T]: shift in picture sides, factor of its size, turn in rad."""

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    turn: np.ndarray


def _track(
    t: np.ndarray,
    *,
    x: np.ndarray | float = 0.0,
    y: np.ndarray | float = 0.0,
    size: np.ndarray | float = 1.0,
    turn: np.ndarray | float = 0.0,
) -> Track:
    return Track(*(np.broadcast_to(value, t.shape) for value in (x, y, size, turn)))


def _slide(side: float, *, upright: bool = False) -> Callable[..., Track]:
    def motion(t: np.ndarray, rng: np.random.Generator) -> Track:
        way = side * rng.uniform(0.25, 0.5) * (t - 0.5)
        return _track(t, y=way) if upright else _track(t, x=way)

    return motion


def _spin(side: float) -> Callable[..., Track]:
    def motion(t: np.ndarray, rng: np.random.Generator) -> Track:
        return _track(t, turn=side * rng.uniform(0.9, 1.8) * (t - 0.5))

    return motion


def _zoom(side: float) -> Callable[..., Track]:
    def motion(t: np.ndarray, rng: np.random.Generator) -> Track:
        return _track(t, size=rng.uniform(1.35, 1.8) ** (side * (t - 0.5)))

    return motion


def _shake(t: np.ndarray, rng: np.random.Generator) -> Track:
    turns = rng.uniform(2.5, 4.5)
    return _track(t, x=0.06 * np.sin(2 * np.pi * (turns * t + rng.uniform())))


def _rest(t: np.ndarray, rng: np.random.Generator) -> Track:
    del rng
    return _track(t)


MOTIONS: dict[str, Callable[[np.ndarray, np.random.Generator], Track]] = {
    "rest": _rest,
    "left": _slide(-1),
    "right": _slide(1),
    "up": _slide(-1, upright=True),
    "down": _slide(1, upright=True),
    "clockwise": _spin(1),
    "anticlockwise": _spin(-1),
    "grow": _zoom(1),
    "shrink": _zoom(-1),
    "shake": _shake,
}
