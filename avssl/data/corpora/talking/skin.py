"""The face around the mouth: skin texture, nose, folds, chin and beard, in brightness."""

from __future__ import annotations

import numpy as np

from avssl.data.corpora.talking.face import Face
from avssl.data.corpora.talking.mouth import Mouth, edge, hill

_SIDE = 128  # pixels a side of a texture
_FINE = 2  # texture values per pixel


class Skin:
    """Textures of one face."""

    def __init__(self, face: Face) -> None:
        rng = np.random.default_rng(face.seed)
        self.face = face
        self.pores = _fine(0.03 * _blurred(rng, 12) + 0.015 * _blurred(rng, 2))
        self.stubble = _fine(_blurred(rng, 1))

    def shade(self, mouth: Mouth, rounding: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Brightness in every pixel, [t, S, S]; 1 is the plain colour.

        Args:
            mouth: over the whole picture.
            rounding: [t, 1, 1].
            x: head coordinates, [t, S, S].
            y: head coordinates, [t, S, S].
        """
        face = self.face
        below = np.clip((y - mouth.bottom) / 20, 0, 1)
        jaw = y - 0.8 * mouth.bottom * np.clip((y + 4) / 32, 0, 1)  # skin moves with the jaw
        nose, side = y + face.nose, np.abs(x)
        out = 1 + face.light[1] / 96 * x + face.shade / 96 * y
        out += _sample(self.pores, x, jaw)
        out *= 1 - 0.5 * hill(side - 6.5, 3.0) * hill(nose, 2.2)  # nostrils
        out *= 1 - 0.15 * edge(1 - nose, 6.0) * hill(side - 13, 5.0)  # beside the nose
        groove = edge(nose - 4, 4.0) * edge(mouth.outer_upper - y, 3.0)
        out *= 1 - 0.12 * hill(x, 2.2) * groove  # above the lip
        fold = 16 + 0.35 * nose + 0.008 * nose * nose - 3 * rounding
        reach = edge(nose, 6.0) * edge(4 - y, 10.0)
        out *= 1 - face.folds * hill(side - fold, 3.5) * reach  # from nose to mouth
        out *= 1 - 0.16 * hill(y - mouth.outer_lower - 2.5, 2.6) * hill(x, 14.0)  # below the lip
        corner = hill(np.abs(mouth.across) - 1.03, 0.07) * hill(y - face.droop, 2.5)
        out *= 1 - 0.3 * corner
        if face.beard:
            area = edge(nose - 7, 6.0) * (0.6 + 0.4 * below)
            hair = np.clip(0.5 + 0.5 * _sample(self.stubble, x, jaw), 0.15, 1)
            out *= 1 - 0.55 * face.beard * area * hair
        return out


def _blurred(rng: np.random.Generator, width: int) -> np.ndarray:
    """Noise [_SIDE, _SIDE] of unit variance with blobs about `width` pixels wide."""
    rate = np.fft.fftfreq(_SIDE)[:, None] ** 2 + np.fft.rfftfreq(_SIDE) ** 2
    white = rng.standard_normal((_SIDE, _SIDE))
    tile = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-rate * (2 * width) ** 2))
    return (tile / tile.std()).astype(np.float32)


def _fine(tile: np.ndarray) -> np.ndarray:
    return tile.repeat(_FINE, 0).repeat(_FINE, 1).reshape(-1)


def _sample(tile: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A texture at head coordinates, repeated endlessly; the nearest value."""
    side = _FINE * _SIDE
    column = (_FINE * x + side).astype(np.int32) & (side - 1)
    row = (_FINE * y + side).astype(np.int32) & (side - 1)
    return tile[row * side + column]
