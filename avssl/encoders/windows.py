"""Clips as users give them (paths, waveforms, pictures) cut into windows of raw inputs.

Letters: N samples, T pictures or frames, H W height and width, C channels, K samples of a frame.
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
from torch import Tensor

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.dataset import ClipDataset
from avssl.data.length_config import LipsConfig, WaveConfig
from avssl.data.lengths import cropped_lips, frame_count
from avssl.data.manifest import Clip, Manifest
from avssl.data.probe import probe_clip
from avssl.data.timed import TimedCaller
from avssl.data.usable import LARGEST_CROP, Check, extent
from avssl.encoders.arrays import (
    check_pictures,
    cropped,
    given_arrays,
    picture_rate,
    scaled,
    sound_at,
)
from avssl.errors import UserError

Span = Literal["all", "middle"]
SPANS = ("all", "middle")
SCAN_LIMIT = 120.0  # s for finding out what one file holds

# input -> waveform float32 [N] or pictures uint8 [3, T, H, W], or of clips of their own length
# [T, K] and [1, T, H, W]
Raw = dict[str, np.ndarray]


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
                if sample_rate is not None or fps is not None:
                    raise UserError("a file tells its own rate: sample_rate and fps are for arrays")
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
    clip = scan_file(path)
    reason = Check(data).reason(clip)
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
        what = "not there" if not path.exists() else "a folder" if path.is_dir() else "no file"
        raise UserError(f"{path} is {what}: give a file")
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
        dataclasses.replace(clip, start=begin + start, end=begin + min(start + data.reach, length))
        for start in starts(length, data.reach, span)
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
        parts = {name: given_arrays(x[name], data.inputs[name]) for name in data.inputs}
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
    return [{name: array} for array in given_arrays(x, recipe)]


def _array_windows(
    arrays: Mapping[str, Tensor],
    data: DataConfig,
    *,
    sample_rate: int | None,
    fps: float | None,
    span: Span,
) -> Iterator[Raw]:
    """Windows of one clip given as arrays."""
    sounds: dict[str, Tensor] = {}
    lengths: list[float] = []
    for name, recipe in data.inputs.items():
        array = arrays[name]
        if isinstance(recipe, FbankConfig | WaveConfig):
            sounds[name] = sound_at(array, sample_rate, recipe.sample_rate)
            lengths.append(len(sounds[name]) / recipe.sample_rate)
        else:
            check_pictures(array)
            fps = picture_rate(fps)
            lengths.append(len(array) / fps)
    length = min(lengths)
    if data.lengths is not None:
        yield from _stretches(arrays, sounds, data, length=length, fps=fps, span=span)
        return
    period = min(length, data.reach)  # a clip shorter than the window is repeated
    for start in starts(length, data.reach, span):
        raw: Raw = {}
        for name, recipe in data.inputs.items():
            if isinstance(recipe, FbankConfig):
                first = round(start * recipe.sample_rate)
                count = round(data.window * recipe.sample_rate)
                part = sounds[name][first : first + min(count, round(period * recipe.sample_rate))]
                raw[name] = part.numpy() if recipe.short == "pad" else np.resize(part, count)  # [N]
            elif isinstance(recipe, FramesConfig):
                assert fps is not None
                times = start + recipe.times(data.window, period, fps=fps)
                raw[name] = cropped(_shown(arrays, name, times, fps), recipe.size)
        yield raw


def _stretches(
    arrays: Mapping[str, Tensor],
    sounds: Mapping[str, Tensor],
    data: DataConfig,
    *,
    length: float,
    fps: float | None,
    span: Span,
) -> Iterator[Raw]:
    """Stretches of one clip that keep its own length, up to the longest the encoder takes."""
    assert data.lengths is not None
    if frame_count(length, data) < max(1, frame_count(data.lengths.shortest, data)):
        raise UserError(
            f"a clip is {length:.2f} s long, and data.lengths.shortest of the encoder is "
            f"{data.lengths.shortest:g}"
        )
    for start in starts(length, data.reach, span):
        count = frame_count(min(length, data.reach), data)
        raw: Raw = {}
        for name, recipe in data.inputs.items():
            if isinstance(recipe, WaveConfig):
                sound = np.zeros((count, recipe.samples), np.float32)  # [T, K]
                first = round(start * recipe.sample_rate)
                part = sounds[name][first : first + sound.size].numpy()
                sound.reshape(-1)[: len(part)] = part
                raw[name] = sound
            elif isinstance(recipe, LipsConfig):
                times = start + np.arange(count) / recipe.rate
                pictures = _shown(arrays, name, times, fps)
                if not pictures.shape[1] == pictures.shape[2] <= LARGEST_CROP:
                    raise UserError(
                        f"pictures of {pictures.shape[2]} x {pictures.shape[1]} pixels are no "
                        f"square mouth crops of at most {LARGEST_CROP} pixels: make crops with "
                        "tools/prepare_lips.py"
                    )
                crops = scaled(pictures, recipe.stored).permute(0, 2, 3, 1).numpy()
                raw[name] = cropped_lips(crops, recipe, None)
        yield raw


def _shown(arrays: Mapping[str, Tensor], name: str, times: np.ndarray, fps: float | None) -> Tensor:
    """The pictures shown at these times (s): uint8 [T, H, W, 3]."""
    assert fps is not None
    array = arrays[name]
    return array[torch.from_numpy(times * fps + 1e-4).long().clamp(max=len(array) - 1)]
