"""One speaker's looks and the camera: all of the picture that does not depend on the words."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]  # 0 to 255


@dataclass(frozen=True)
class Face:
    """Lengths in pixels of the 96 x 96 picture, angles in radians, rates in Hz."""

    seed: int  # of skin texture and noise
    skin: Colour
    lips: Colour
    tongue: Colour
    teeth: Colour
    half_width: float  # of the mouth at rest
    upper: float  # thickness of the upper lip
    lower: float
    bow: float  # depth of the notch in the upper lip
    droop: float  # of the corners
    gape: float  # opening of the widest vowel
    effort: float  # how clearly the speaker moves
    beard: float  # 0 none to 1
    folds: float  # depth of the lines from nose to mouth
    nose: float  # distance from the mouth
    light: tuple[float, float]  # brightness, its gradient from left to right
    shade: float  # gradient from top to bottom
    noise: float
    place: tuple[float, float]
    zoom: float
    tilt: float
    sway: np.ndarray  # [4, 3] amplitude, rate, phase of x, y, tilt, zoom

    @classmethod
    def draw(cls, rng: np.random.Generator, *, man: bool) -> Face:
        """A random face."""
        tone = rng.uniform()  # dark to pale
        hue = rng.uniform(0.045, 0.085)
        skin = colorsys.hsv_to_rgb(
            hue, 0.62 - 0.32 * tone + rng.uniform(-0.06, 0.06), 0.42 + 0.5 * tone
        )
        red = 0.02 + rng.uniform(-0.04, 0.015) - (0.0 if man else rng.uniform(0, 0.04))
        strong = rng.uniform(0.0, 0.12) if man else rng.uniform(0.05, 0.4)  # lipstick
        lips = colorsys.hsv_to_rgb(
            red % 1.0,
            float(np.clip(0.62 - 0.2 * tone + strong, 0, 0.9)),
            (0.36 + 0.36 * tone) * rng.uniform(0.88, 1.1),
        )
        pale = rng.uniform(0.75, 0.95)
        amplitude = np.array([1.5, 1.5, 0.04, 0.025]) * rng.uniform(0.2, 1.0, 4)
        sway = np.stack([amplitude, rng.uniform(0.1, 0.6, 4), rng.uniform(0, 2 * np.pi, 4)], axis=1)
        return cls(
            seed=int(rng.integers(2**31)),
            skin=_scaled(skin),
            lips=_scaled(lips),
            tongue=_scaled((rng.uniform(0.62, 0.75), 0.3, 0.32)),
            teeth=_scaled((pale, 0.98 * pale, rng.uniform(0.84, 0.96) * pale)),
            half_width=rng.uniform(19.5, 25.0),
            upper=rng.uniform(4.0, 7.0),
            lower=rng.uniform(5.5, 9.0),
            bow=rng.uniform(0.1, 0.4),
            droop=rng.uniform(-1.5, 2.0),
            gape=rng.uniform(21.0, 28.0),
            effort=rng.uniform(0.85, 1.1),
            beard=rng.uniform(0.15, 1.0) if man and rng.uniform() < 0.6 else 0.0,
            folds=rng.uniform(0.0, 0.22),
            nose=rng.uniform(25.0, 32.0),
            light=(rng.uniform(0.75, 1.15), rng.uniform(-0.3, 0.3)),
            shade=rng.uniform(-0.2, 0.05),
            noise=rng.uniform(0.5, 2.5),
            place=(rng.uniform(-2.5, 2.5), rng.uniform(-2.5, 2.5) - 3.0),
            zoom=rng.uniform(0.92, 1.1),
            tilt=rng.uniform(-0.12, 0.12),
            sway=sway,
        )


def _scaled(colour: tuple[float, ...]) -> Colour:
    red, green, blue = (255 * value for value in colour)
    return red, green, blue
