"""The picture of a clip of `objects`: a textured object over a textured, drifting background."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from avssl.data.corpora.objects.motions import MOTIONS, Track
from avssl.data.corpora.objects.silhouettes import SILHOUETTES, Part
from avssl.data.manifest import SPLITS

SIZE = 80  # pixels
FPS = 8
FRAMES = 16
_FINE = 2  # outlines are painted at so many times the size
_FIELD = SIZE + 48  # textures are larger than the picture, for the background drifts


@dataclass(frozen=True)
class Thing:
    """A silhouette with its texture, place (x, y in picture sides), radius and turn in rad."""

    parts: list[Part]
    shear: np.ndarray  # [2, 2], makes each one of a kind a little other
    texture: np.ndarray  # float32 [_FIELD, _FIELD, 3]
    x: float
    y: float
    radius: float
    turn: float

    def paint(self, canvas: np.ndarray, track: Track, k: int) -> None:
        """Lay it over float32 [SIZE, SIZE, 3] as it is in picture k."""
        turn = self.turn + track.turn[k]
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        place = np.array([self.x + track.x[k], self.y + track.y[k]])
        matrix = rotation @ self.shear * (self.radius * track.size[k])
        mask = Image.new("L", (SIZE * _FINE, SIZE * _FINE))
        brush = ImageDraw.Draw(mask)
        for points, adds in self.parts:
            corners = (points @ matrix.T + place) * SIZE * _FINE
            brush.polygon([*map(tuple, corners)], fill=255 if adds else 0)
        cover = np.asarray(mask.reduce(_FINE), dtype=np.float32)[..., None] / 255
        # another part of its texture at each place: not glued to it, as light between leaves is
        top, left = (np.clip(np.round(24 - 24 * np.sin(3 * place[::-1])), 0, 48)).astype(int)
        canvas += cover * (self.texture[top : top + SIZE, left : left + SIZE] - canvas)


@dataclass(frozen=True)
class Moving:
    """One clip: `object` moves by `motion`, in front of and behind things of no kind."""

    kind: str
    motion: str
    object: Thing
    track: Track
    behind: list[Thing]
    before: list[Thing]
    background: np.ndarray  # float32 [_FIELD, _FIELD, 3]
    drift: tuple[float, float]  # of the background over the clip, in pixels
    noise: float
    seed: int


def kind_and_motion(index: int) -> tuple[str, str]:
    """Of the clip `index` of any split: kinds take turns, and so do motions, each with each."""
    kinds, motions = list(SILHOUETTES), list(MOTIONS)
    return kinds[index % len(kinds)], motions[index // len(kinds) % len(motions)]


def make_moving(split: str, index: int, *, seed: int = 0) -> Moving:
    """Clip `index` of `split`: a function of (seed, split, index) alone."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 3])
    kind, motion = kind_and_motion(index)
    back, front = _palette(rng, bright=False), _palette(rng, bright=True)
    clutter = [_clutter(rng) for _ in range(int(rng.integers(0, 3)))]
    behind = max(0, len(clutter) - int(rng.integers(2)))  # at most one is in front
    return Moving(
        kind=kind,
        motion=motion,
        object=Thing(
            parts=_mirrored(SILHOUETTES[kind](rng), rng),
            shear=_shear(rng),
            texture=_texture(rng, front),
            x=rng.uniform(0.44, 0.56),
            y=rng.uniform(0.44, 0.56),
            radius=rng.uniform(0.3, 0.42),
            turn=rng.uniform(-0.35, 0.35),
        ),
        track=MOTIONS[motion](np.linspace(0, 1, FRAMES), rng),
        behind=clutter[:behind],
        before=clutter[behind:],
        background=_texture(rng, back),
        drift=tuple(rng.uniform(-12, 12, 2)),
        noise=rng.uniform(0.5, 3.0),
        seed=int(rng.integers(2**31)),
    )


def make_picture(moving: Moving) -> np.ndarray:
    """uint8 [FRAMES, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(moving.seed)
    still = MOTIONS["rest"](np.linspace(0, 1, FRAMES), rng)
    frames = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    for k in range(FRAMES):
        share = k / (FRAMES - 1) - 0.5
        top, left = (round(24 + share * way) for way in moving.drift)
        canvas = moving.background[top : top + SIZE, left : left + SIZE].copy()
        for thing in moving.behind:
            thing.paint(canvas, still, k)
        moving.object.paint(canvas, moving.track, k)
        for thing in moving.before:
            thing.paint(canvas, still, k)
        canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * moving.noise
        frames[k] = np.clip(canvas, 0, 255)
    return frames


def _mirrored(parts: list[Part], rng: np.random.Generator) -> list[Part]:
    side = np.array([rng.choice([-1.0, 1.0]), 1.0])
    return [(points * side, adds) for points, adds in parts]


def _shear(rng: np.random.Generator) -> np.ndarray:
    long = np.exp(rng.uniform(-0.2, 0.2))
    return np.array([[long, rng.uniform(-0.12, 0.12)], [rng.uniform(-0.12, 0.12), 1 / long]])


def _palette(rng: np.random.Generator, *, bright: bool) -> np.ndarray:
    """Two shades of a colour, light for objects and dark for backgrounds: [2, 3] in 0 .. 255."""
    hue, saturation = rng.uniform(), rng.uniform(0.0, 0.25)
    value = rng.uniform(0.75, 0.9) if bright else rng.uniform(0.15, 0.3)
    shades = (value, value + rng.uniform(0.02, 0.1 if bright else 0.05))
    return 255 * np.array([colorsys.hsv_to_rgb(hue, saturation, shade) for shade in shades])


def _texture(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """Stripes, a grid, spots or clouds between two colours: float32 [_FIELD, _FIELD, 3]."""
    v, u = np.mgrid[:_FIELD, :_FIELD].astype(np.float32) / _FIELD
    angle, waves = rng.uniform(0, np.pi), rng.uniform(4, 18)
    a = np.cos(angle) * u + np.sin(angle) * v
    b = np.cos(angle) * v - np.sin(angle) * u
    kind = rng.integers(4)
    if kind == 0:
        blend = 0.5 + 0.5 * np.sin(2 * np.pi * waves * a)
    elif kind == 1:
        blend = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * waves * a) * np.sin(2 * np.pi * waves * b))
    elif kind == 2:
        spots = np.sin(2 * np.pi * waves * a) + np.sin(2 * np.pi * waves * b)
        blend = np.clip(2 * spots - 0.5, 0, 1)
    else:
        cells = int(rng.integers(3, 16))
        field = Image.fromarray(rng.uniform(0, 1, (cells, cells)).astype(np.float32))
        blend = np.asarray(field.resize((_FIELD, _FIELD), Image.Resampling.BICUBIC))
    light = 1 + rng.uniform(-0.25, 0.25) * (2 * u - 1) + rng.uniform(-0.25, 0.25) * (2 * v - 1)
    colours = palette[0] + blend[..., None] * (palette[1] - palette[0])
    return (colours * light[..., None]).astype(np.float32)


def _clutter(rng: np.random.Generator) -> Thing:
    """A blob, bar or splinter of no kind, small, towards the rim."""
    corners = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(0.3, 1.0, corners)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    side = rng.uniform(0, 2 * np.pi)
    return Thing(
        parts=[(points, True)],
        shear=_shear(rng),
        texture=_texture(rng, _palette(rng, bright=bool(rng.integers(2)))),
        x=0.5 + 0.42 * np.cos(side),
        y=0.5 + 0.42 * np.sin(side),
        radius=rng.uniform(0.06, 0.18),
        turn=0.0,
    )
