"""Clips as users give them (paths, waveforms, pictures) cut into windows of raw inputs.

Letters: N samples, T pictures, H W height and width, C channels.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.dataset import ClipDataset, extent, unusable
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import scaled_size
from avssl.data.probe import probe_clip
from avssl.data.sound import resampler
from avssl.data.timed import TimedCaller
from avssl.errors import UserError

Span = Literal["all", "middle"]
SPANS = ("all", "middle")
PICTURES = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff".split())
SCAN_LIMIT = 120.0  # s for finding out what one file holds
SHORTEST = 0.025  # s, one frame of a filterbank

Raw = dict[str, np.ndarray]  # input -> waveform float32 [N] or pictures uint8 [3, T, H, W]


def given_clips(
    x: Any, data: DataConfig, *, sample_rate: int | None, fps: float | None, span: Span
) -> tuple[int, Iterator[tuple[int, Raw]]]:
    """Number of clips, and (clip, raw inputs) of each window of each, read as it is asked for.

    Arguments and errors as of `Encoder.forward`.
    """
    if span not in SPANS:
        raise UserError(f"span={span!r} is none of {', '.join(SPANS)}")
    clips = _listed(x, data)
    if not clips:
        raise UserError("no clip was given: the list is empty")

    def windows() -> Iterator[tuple[int, Raw]]:
        for number, clip in enumerate(clips):
            if isinstance(clip, (str, os.PathLike)):
                found = file_windows(Path(clip).expanduser(), data, span=span)
            else:
                found = _array_windows(clip, data, sample_rate=sample_rate, fps=fps, span=span)
            for raw in found:
                yield number, raw

    return len(clips), windows()


def file_windows(path: Path, data: DataConfig, *, span: Span) -> Iterator[Raw]:
    """Windows of a file, each read when it is asked for.

    Raises UserError when the file is not there, lacks a stream, or cannot be read.
    """
    if path.suffix.lower() in PICTURES:
        pictures = _read_picture(path)
        yield from _array_windows({"": pictures}, data, sample_rate=None, fps=1.0, span=span)
        return
    clip = scan_file(path)
    reason = unusable(clip, audio=data.needs_audio, video=data.needs_video)
    if reason:
        raise UserError(f"{path}: {reason}")
    rows = window_rows(clip, data, span)
    clips = ClipDataset(Manifest(path.parent, rows), data, split=None, replace=False)
    for row in range(len(rows)):
        sample = clips[0, row]
        if not sample.inputs:
            raise UserError(f"{path}: {sample.failures[0][1]}")
        yield sample.inputs


def scan_file(path: Path) -> Clip:
    """What one file holds.

    Raises UserError when it is no file, or finding out takes too long.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'not there'}: give a file")
    try:
        return TimedCaller()(
            probe_clip, os.fspath(path.parent), Clip(path=path.name), limit=SCAN_LIMIT
        )
    except TimeoutError:
        raise UserError(
            f"{path} is too long to be looked through in {SCAN_LIMIT:g} s: cut it into pieces"
        ) from None


def window_rows(clip: Clip, data: DataConfig, span: Span) -> list[Clip]:
    """The windows of a scanned clip as manifest rows of their own."""
    begin, length = extent(clip, video=data.needs_video)
    return [
        dataclasses.replace(clip, start=begin + start, end=begin + min(start + data.window, length))
        for start in starts(length, data.window, span)
    ]


def starts(length: float, window: float, span: Span) -> list[float]:
    """Where windows begin in a clip of `length` s; the last one ends with the clip."""
    if length <= window:
        return [0.0]
    if span == "middle":
        return [(length - window) / 2]
    count = math.ceil(length / window - 1e-6)
    return [number * window for number in range(count - 1)] + [length - window]


def _listed(x: Any, data: DataConfig) -> list[Any]:
    """The clips given: paths, or {input: array} each."""
    if isinstance(x, (str, os.PathLike)):
        return [x]
    if isinstance(x, Mapping):
        unknown = sorted(set(x) ^ set(data.inputs))
        if unknown:
            raise UserError(
                f"give {{{', '.join(repr(name) + ': ...' for name in data.inputs)}}}: "
                f"{unknown[0]!r} is {'missing' if unknown[0] in data.inputs else 'unknown'}"
            )
        parts = {name: _arrays(x[name], data.inputs[name]) for name in data.inputs}
        counts = {name: len(arrays) for name, arrays in parts.items()}
        if len(set(counts.values())) > 1:
            raise UserError(f"as many clips of each input are needed, found {counts}")
        return [
            dict(zip(parts, arrays, strict=True)) for arrays in zip(*parts.values(), strict=True)
        ]
    if isinstance(x, Sequence) and x and all(isinstance(item, (str, os.PathLike)) for item in x):
        return list(x)
    if len(data.inputs) > 1:
        names = ", ".join(repr(name) + ": ..." for name in data.inputs)
        raise UserError(f"give paths, or arrays as {{{names}}}; found {type(x).__name__}")
    ((name, recipe),) = data.inputs.items()
    return [{name: array} for array in _arrays(x, recipe)]


def _arrays(x: Any, recipe: FbankConfig | FramesConfig) -> list[Tensor]:
    single = 1 if isinstance(recipe, FbankConfig) else 4
    what = "waveforms [N], [B, N]" if single == 1 else "pictures [T, H, W, 3], uint8,"
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
    try:
        return torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"give a path, or {what} or a list of them; found {x!r:.60}") from None


def _array_windows(
    arrays: Mapping[str, Tensor],
    data: DataConfig,
    *,
    sample_rate: int | None,
    fps: float | None,
    span: Span,
) -> Iterator[Raw]:
    """Windows of one clip given as arrays (under "", pictures for the only input)."""
    sounds: dict[str, Tensor] = {}
    lengths: list[float] = []
    for name, recipe in data.inputs.items():
        array = arrays[""] if "" in arrays else arrays[name]
        if isinstance(recipe, FbankConfig):
            if "" in arrays:
                raise UserError("a picture has no sound: give a clip or a sound")
            sounds[name] = _sound(array, sample_rate, recipe.sample_rate)
            lengths.append(len(sounds[name]) / recipe.sample_rate)
        else:
            if array.dtype != torch.uint8 or array.shape[-1] != 3:
                raise UserError(
                    "pictures are uint8 RGB [T, H, W, 3]; found "
                    f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"
                )
            if not fps or not fps > 0:
                raise UserError("give fps=, the pictures per second")
            lengths.append(len(array) / fps)
    length = min(lengths)
    period = min(length, data.window)  # a clip shorter than the window is repeated
    for start in starts(length, data.window, span):
        raw: Raw = {}
        for name, recipe in data.inputs.items():
            if isinstance(recipe, FbankConfig):
                first = round(start * recipe.sample_rate)
                count = round(data.window * recipe.sample_rate)
                part = sounds[name][first : first + min(count, round(period * recipe.sample_rate))]
                raw[name] = part.numpy() if recipe.short == "pad" else np.resize(part, count)  # [N]
            else:
                assert fps is not None
                array = arrays[""] if "" in arrays else arrays[name]
                times = start + recipe.times(data.window, period)
                index = torch.from_numpy(times * fps + 1e-4).long().clamp(max=len(array) - 1)
                raw[name] = _cropped(array[index], recipe.size)
        yield raw


def _sound(wave: Tensor, rate: int | None, wanted: int) -> Tensor:
    """Float32 [N] at the wanted rate."""
    if not rate or not rate > 0:
        raise UserError("give sample_rate=, in Hz")
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
    if len(wave) / rate < SHORTEST:
        raise UserError(
            f"a waveform is {len(wave)} samples long, {len(wave) / rate * 1000:.1f} ms: at least "
            f"{SHORTEST * 1000:g} ms are needed"
        )
    return wave if rate == wanted else resampler(rate, wanted)(wave)  # [N]


def _cropped(pictures: Tensor, size: int) -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [3, T, size, size]: the shorter side to `size`, the centre."""
    height, width = pictures.shape[1:3]
    clip = Clip(path="", width=width, height=height)
    across, down = scaled_size(clip, size)
    x = pictures.permute(0, 3, 1, 2).float()  # [T, 3, H, W]
    if (height, width) != (down, across):
        x = F.interpolate(x, size=(down, across), mode="bilinear", antialias=True)
    top, left = round((down - size) / 2), round((across - size) / 2)
    x = x[:, :, top : top + size, left : left + size].round().clamp(0, 255).byte()
    return x.permute(1, 0, 2, 3).contiguous().numpy()  # [3, T, size, size]


def _read_picture(path: Path) -> Tensor:
    """A still as uint8 [1, H, W, 3]."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return torch.from_numpy(np.array(upright)[None])  # [1, H, W, 3]
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture that can be read: {error}") from None
