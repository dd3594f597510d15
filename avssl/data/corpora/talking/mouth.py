"""Where the lips are: their four lines over the picture, from the pose and the face.

t frames, S pixels a side. Head coordinates: pixels of the unzoomed picture, the middle of the
closed lips at (0, 0), y downwards.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import EllipsisType

import numpy as np

from avssl.data.corpora.talking.face import Face
from avssl.data.corpora.talking.pose import OPENING, PRESS, ROUNDING, TUCK, WIDTH

Box = tuple[EllipsisType, slice, slice]  # index of rows and columns


def edge(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Coverage 0 to 1 of a shape that lies at positive distances, with a soft edge."""
    return np.clip(distance / width + 0.5, 0, 1)


def hill(value: np.ndarray, width: float) -> np.ndarray:
    """A soft bump of height 1 around 0, nothing beyond 1.8 widths; looks like a Gaussian."""
    flank = np.maximum(1 - value * value * np.float32(1 / (1.8 * width) ** 2), 0)
    return flank * flank


@dataclass(frozen=True)
class Mouth:
    """Heights y of the lip lines above every pixel's x, [t, S, S], and what follows from them."""

    outer_upper: np.ndarray
    inner_upper: np.ndarray
    inner_lower: np.ndarray
    outer_lower: np.ndarray
    across: np.ndarray  # x as a share of the half width: -1 and 1 at the corners
    gap: np.ndarray  # [t, 1, 1] opening in the middle, pixels
    top: np.ndarray  # [t, 1, 1] y of the upper lip's edge in the middle
    bottom: np.ndarray  # [t, 1, 1] y of the lower lip's edge in the middle

    @classmethod
    def of(cls, face: Face, pose: np.ndarray, x: np.ndarray) -> Mouth:
        """The mouth of a pose [t, K] over head coordinates x [t, S, S]."""
        part = pose.T.astype(np.float32)[:, :, None, None]  # K of [t, 1, 1]
        rounding, press, tuck = part[ROUNDING], part[PRESS], part[TUCK]
        gap = face.gape * part[OPENING]
        half = face.half_width * (1 + 0.17 * part[WIDTH] - 0.28 * rounding) - 0.1 * gap
        across = x / half
        bulge = np.maximum(1 - across**2, 0)  # 0 outside the mouth
        inside = np.maximum(1 - (across / 0.9) ** 2, 0)
        root = np.sqrt(inside)
        arch = (1 - rounding) * np.sqrt(inside * root) + rounding * root
        raised = 0.32 * gap + 0.8 * tuck
        dropped = 0.68 * gap - 1.5 * tuck
        line = face.droop * across**2 * (np.abs(across) < 1.3)
        inner_upper = line - raised * arch
        inner_lower = line + dropped * arch
        thin = (1 - 0.45 * press) * (1 + 0.4 * rounding)
        full = np.sqrt(bulge)
        upper = face.upper * thin * (1 - face.bow * hill(across, 0.13)) * full
        lower = face.lower * thin * (1 - 0.4 * tuck) * full
        return cls(
            outer_upper=inner_upper - upper,
            inner_upper=inner_upper,
            inner_lower=inner_lower,
            outer_lower=inner_lower + lower,
            across=across,
            gap=gap,
            top=-raised,
            bottom=dropped,
        )

    def box(self, y: np.ndarray) -> Box:
        """The part of the picture outside which no frame has lips."""
        near = np.abs(self.across) < 1.1
        near &= (y > self.outer_upper - 2) & (y < self.outer_lower + 2)
        rows, columns = near.any((0, 2)).nonzero()[0], near.any((0, 1)).nonzero()[0]
        return ..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

    def within(self, box: Box) -> Mouth:
        """The same mouth over a part of the picture."""
        return dataclasses.replace(
            self,
            outer_upper=self.outer_upper[box],
            inner_upper=self.inner_upper[box],
            inner_lower=self.inner_lower[box],
            outer_lower=self.outer_lower[box],
            across=self.across[box],
        )
