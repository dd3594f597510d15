"""Waveforms and pictures given as arrays: one form for all, and refused where they make no sense.

Letters: B clips, N samples, T pictures, H W height and width.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avssl.data.config import FbankConfig, Recipe
from avssl.data.length_config import WaveConfig
from avssl.data.manifest import Clip
from avssl.data.media import scaled_size
from avssl.data.sound import resampler
from avssl.data.stills import NARROWEST, fitted
from avssl.errors import UserError

SHORTEST = 0.025  # s, one frame of a filterbank
LOUDEST = 100.0  # of waveforms that should stay within 1: above it, they were never scaled
RATES = (1000, 1_000_000)  # Hz
SPEEDS = (0.01, 1000.0)  # pictures per second


def given_arrays(x: Any, recipe: Recipe) -> list[Tensor]:
    """One tensor for each clip: waveforms [N], pictures [T, H, W, 3].

    Raises UserError for anything else.
    """
    single = 1 if isinstance(recipe, FbankConfig | WaveConfig) else 4
    what = "waveforms [N], [B, N]" if single == 1 else "pictures [T, H, W, 3], uint8,"
    if isinstance(x, (list, tuple)) and any(isinstance(item, (str, os.PathLike)) for item in x):
        raise UserError("paths and arrays are mixed in one list: give either")
    if isinstance(x, (list, tuple)) and x and not isinstance(x[0], (int, float)):
        items = [_tensor(item, what) for item in x]
    else:
        tensor = _tensor(x, what)
        items = list(tensor) if tensor.ndim == single + 1 else [tensor]
    for item in items:
        if item.ndim != single:
            raise UserError(f"give {what} or a list of them; found the shape {list(item.shape)}")
        if 0 in item.shape:
            raise UserError(f"an input is empty: its shape is {list(item.shape)}")
    return items


def _tensor(x: Any, what: str) -> Tensor:
    """Plain numbers on the CPU."""
    try:
        if isinstance(x, np.ndarray):  # any byte order and stride, also what is only to be read
            x = x.astype(np.float64 if x.dtype == np.longdouble else x.dtype.newbyteorder("="))
        x = torch.as_tensor(x)
        if x.layout != torch.strided or x.is_meta or x.is_complex():
            raise TypeError
        return x.detach().cpu().resolve_neg()
    except (TypeError, ValueError, RuntimeError):
        shown = type(x).__name__ if isinstance(x, (Tensor, np.ndarray)) else f"{x!r:.60}"
        if isinstance(x, Tensor):
            shown = f"{x.layout} {x.dtype} on {x.device}".replace("torch.", "")
        raise UserError(f"give a path, or {what} or a list of them; found {shown}") from None


def sound_at(wave: Tensor, rate: int | None, wanted: int) -> Tensor:
    """A waveform as float32 [N] at the wanted rate (Hz).

    Raises UserError for a rate, samples or a length that cannot be meant.
    """
    rate = _rate(rate)
    if wave.dtype == torch.int16:
        wave = wave.float() / 2**15
    if not wave.is_floating_point():
        raise UserError(
            "a waveform is float in [-1, 1] or int16; found "
            f"{str(wave.dtype).removeprefix('torch.')}"
        )
    wave = wave.detach().cpu().float()
    if not wave.isfinite().all():
        raise UserError("a waveform holds values that are not finite")
    peak = wave.abs().max().item() if len(wave) else 0.0
    if peak > LOUDEST:
        raise UserError(
            f"a waveform peaks at {peak:g}, far outside [-1, 1]: scale it (16-bit: by 1 / 32768)"
        )
    if len(wave) / rate < SHORTEST:
        raise UserError(
            f"a waveform is {len(wave)} samples long, {len(wave) / rate * 1000:.1f} ms: at least "
            f"{SHORTEST * 1000:g} ms are needed"
        )
    return wave if rate == wanted else resampler(rate, wanted)(wave)  # [N]


def _rate(rate: Any) -> int:
    if rate is None:
        raise UserError("give sample_rate=, in Hz")
    try:
        whole = 0 if isinstance(rate, bool) else int(rate)
        if whole != rate or not RATES[0] <= whole <= RATES[1]:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"sample_rate={rate!r:.40} is not a whole number of Hz from {RATES[0]} to {RATES[1]}"
        ) from None
    return whole


def check_pictures(pictures: Tensor) -> None:
    """Raises UserError for what is not uint8 [T, H, W, 3] of ordinary proportions."""
    if pictures.dtype != torch.uint8 or pictures.shape[-1] != 3:
        raise UserError(
            "pictures are uint8 RGB [T, H, W, 3]; found "
            f"{str(pictures.dtype).removeprefix('torch.')} {list(pictures.shape)}"
        )
    high, wide = pictures.shape[1:3]
    if max(high, wide) > NARROWEST * min(high, wide):
        raise UserError(
            f"pictures of {wide} x {high} pixels are too narrow: at most {NARROWEST} to 1"
        )


def picture_rate(fps: Any) -> float:
    """Pictures per second.

    Raises UserError for what cannot be meant.
    """
    if fps is None:
        raise UserError("give fps=, the pictures per second")
    if not isinstance(fps, (int, float, np.number)) or not SPEEDS[0] <= fps <= SPEEDS[1]:
        raise UserError(
            f"fps={fps!r:.40} is not a number of pictures per second from {SPEEDS[0]:g} to "
            f"{SPEEDS[1]:g}"
        )
    return float(fps)


def cropped(pictures: Tensor, size: int) -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [3, T, size, size]: the shorter side to `size`, the centre."""
    x = scaled(pictures, size)  # [T, 3, H, W]
    top, left = (round((side - size) / 2) for side in x.shape[2:])
    x = x[:, :, top : top + size, left : left + size]
    return x.permute(1, 0, 2, 3).contiguous().numpy()  # [3, T, size, size]


def scaled(pictures: Tensor, size: int) -> Tensor:
    """uint8 [T, H, W, 3] -> uint8 [T, 3, H', W']: the shorter side to `size`."""
    height, width = pictures.shape[1:3]
    return fitted(pictures, scaled_size(Clip(path="", width=width, height=height), size))
