"""Silhouettes of sixteen kinds of objects, no two of a kind alike: their proportions are drawn.

A silhouette is a list of parts that are painted one after the other, polygons float [P, 2] in
-1 .. 1, x to the right and y down; a part adds to the silhouette or is cut out of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Part = tuple[np.ndarray, bool]  # polygon [P, 2], whether it adds
_FULL = np.linspace(0, 2 * np.pi, 40, endpoint=False)


def _poly(*points: tuple[float, float]) -> Part:
    return np.array(points, dtype=float), True


def _oval(x: float, y: float, a: float, b: float, *, adds: bool = True) -> Part:
    return np.stack([x + a * np.cos(_FULL), y + b * np.sin(_FULL)], 1), adds


def _box(left: float, top: float, right: float, bottom: float, *, adds: bool = True) -> Part:
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return np.array(corners, dtype=float), adds


def _radial(radii: np.ndarray, start: float = -np.pi / 2) -> Part:
    """A closed outline about the middle; radii [P] at even angles."""
    angles = start + 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1), True


def _arrow(rng: np.random.Generator) -> list[Part]:
    neck, thick, wide = rng.uniform(-0.1, 0.35), rng.uniform(0.12, 0.3), rng.uniform(0.55, 0.85)
    return [_box(-1, -thick, neck + 0.02, thick), _poly((1, 0), (neck, -wide), (neck, wide))]


def _bird(rng: np.random.Generator) -> list[Part]:
    body, lift = rng.uniform(0.14, 0.24), rng.uniform(0.25, 0.75)
    wings = [
        _poly((0, -body), (side * 0.55, -lift), (side, -lift + 0.35), (side * 0.35, 0.12))
        for side in (-1, 1)
    ]
    return [*wings, _oval(0, 0, body, 0.5), _poly((-0.2, 0.75), (0.2, 0.75), (0, 0.3))]


def _boat(rng: np.random.Generator) -> list[Part]:
    deck, mast = rng.uniform(0.25, 0.45), rng.uniform(-0.15, 0.15)
    foot, ahead, astern = deck - 0.12, rng.uniform(0.6, 0.9), rng.uniform(-0.7, -0.4)
    return [
        _poly((-0.95, deck), (0.95, deck), (rng.uniform(0.45, 0.7), 0.85), (-0.6, 0.85)),
        _box(mast - 0.05, -0.95, mast + 0.05, deck),
        _poly((mast + 0.1, -0.9), (mast + 0.1, foot), (ahead, foot)),
        _poly((mast - 0.1, -0.6), (mast - 0.1, foot), (astern, foot)),
    ]


def _bolt(rng: np.random.Generator) -> list[Part]:
    a, b = rng.uniform(0.0, 0.2), rng.uniform(0.0, 0.15)
    points = [(0.25, -1), (-0.55, 0.15 - a), (-0.1, 0.1), (-0.35, 1), (0.6, -0.25 + b), (0.1, -0.2)]
    return [_poly(*points)]


def _cross(rng: np.random.Generator) -> list[Part]:
    thick, wide, across = rng.uniform(0.17, 0.32), rng.uniform(0.7, 0.95), rng.uniform(-0.25, 0.0)
    return [
        _box(-thick, -0.95, thick, 0.95),
        _box(-wide, across - thick, wide, across + thick),
    ]


def _crescent(rng: np.random.Generator) -> list[Part]:
    return [_oval(0, 0, 0.9, 0.95), _oval(rng.uniform(0.35, 0.6), 0, 0.75, 0.8, adds=False)]


def _fish(rng: np.random.Generator) -> list[Part]:
    high, tail = rng.uniform(0.32, 0.55), rng.uniform(0.35, 0.6)
    return [
        _oval(0.2, 0, 0.75, high),
        _poly((-0.4, 0), (-1, -tail), (-0.8, 0), (-1, tail)),
        _poly((0.0, -high * 0.8), (0.35, -high * 0.8), (0.0, -high - 0.35)),
        _oval(0.6, -0.1, 0.08, 0.08, adds=False),
    ]


def _gear(rng: np.random.Generator) -> list[Part]:
    teeth, inner = int(rng.integers(6, 10)), rng.uniform(0.68, 0.78)
    radii = np.tile(np.repeat([0.98, inner], 3), teeth)
    hole = rng.uniform(0.2, 0.4)
    return [_radial(radii), _oval(0, 0, hole, hole, adds=False)]


def _heart(rng: np.random.Generator) -> list[Part]:
    t, deep = _FULL, rng.uniform(0.85, 1.15)
    x = np.sin(t) ** 3
    y = 0.8 * np.cos(t) - 0.3 * np.cos(2 * t) - 0.12 * np.cos(3 * t) - 0.06 * np.cos(4 * t)
    return [(np.stack([0.95 * x, -deep * 0.9 * y], 1), True)]


def _house(rng: np.random.Generator) -> list[Part]:
    eaves, wide, door = rng.uniform(-0.35, -0.05), rng.uniform(0.6, 0.8), rng.uniform(-0.3, 0.3)
    return [
        _box(-wide, eaves, wide, 0.9),
        _poly((-wide - 0.18, eaves), (0, -0.95), (wide + 0.18, eaves)),
        _box(door - 0.14, 0.35, door + 0.14, 0.9, adds=False),
    ]


def _key(rng: np.random.Generator) -> list[Part]:
    bow, thick = rng.uniform(0.32, 0.45), rng.uniform(0.08, 0.14)
    bits = [_box(x, 0, x + 0.14, rng.uniform(0.25, 0.45)) for x in (0.5, 0.8)]
    return [
        _oval(-0.55, 0, bow, bow),
        _oval(-0.55, 0, bow * 0.5, bow * 0.5, adds=False),
        _box(-0.6 + bow, -thick, 0.97, thick),
        *bits,
    ]


def _leaf(rng: np.random.Generator) -> list[Part]:
    t, wide = np.linspace(0, np.pi, 20), rng.uniform(0.4, 0.65)
    side = wide * np.sin(t) ** rng.uniform(0.8, 1.4)
    y = -np.cos(t) * 0.8 - 0.2
    outline = np.concatenate([np.stack([side, y], 1), np.stack([-side, y], 1)[::-1]])
    return [(outline, True), _box(-0.06, 0.5, 0.06, 1.0), _box(-0.03, -0.6, 0.03, 0.4, adds=False)]


def _mug(rng: np.random.Generator) -> list[Part]:
    top, left, grip = rng.uniform(-0.8, -0.5), rng.uniform(-0.8, -0.65), rng.uniform(0.3, 0.42)
    return [
        _oval(0.4, 0.1, grip + 0.15, grip + 0.15),
        _oval(0.4, 0.1, grip - 0.08, grip - 0.08, adds=False),
        _poly((left, top), (0.45, top), (0.38, 0.85), (left + 0.07, 0.85)),
    ]


def _ring(rng: np.random.Generator) -> list[Part]:
    hole, flat = rng.uniform(0.45, 0.7), rng.uniform(0.75, 1.0)
    return [_oval(0, 0, 0.95, 0.95 * flat), _oval(0, 0, hole, hole * flat, adds=False)]


def _star(rng: np.random.Generator) -> list[Part]:
    return [_radial(np.tile([1.0, rng.uniform(0.36, 0.5)], 5))]


def _tree(rng: np.random.Generator) -> list[Part]:
    thick, wide = rng.uniform(0.1, 0.18), rng.uniform(0.6, 0.85)
    tiers = [
        _poly((0, top), (-wide * share, top + 0.75), (wide * share, top + 0.75))
        for top, share in ((-0.95, 0.6), (-0.6, 0.8), (-0.2, 1.0))
    ]
    return [_box(-thick, 0.4, thick, 0.97), *tiers]


SILHOUETTES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "arrow": _arrow,
    "bird": _bird,
    "boat": _boat,
    "bolt": _bolt,
    "cross": _cross,
    "crescent": _crescent,
    "fish": _fish,
    "gear": _gear,
    "heart": _heart,
    "house": _house,
    "key": _key,
    "leaf": _leaf,
    "mug": _mug,
    "ring": _ring,
    "star": _star,
    "tree": _tree,
}
