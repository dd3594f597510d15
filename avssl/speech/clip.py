"""A clip made ready for a reader: mouth crops and sound, frame by frame, over all its length.

Letters: T frames, H W height and width, S pixels of a crop, K samples of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from avssl.data.config import DataConfig
from avssl.data.container import MediaError
from avssl.data.length_config import LipsConfig, WaveConfig
from avssl.data.lengths import cropped_lips, frame_count
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import read_clip_sound, read_pictures
from avssl.data.usable import extent, is_crop
from avssl.encoders.arrays import scaled
from avssl.encoders.windows import scan_file
from avssl.errors import UserError
from avssl.lips.detect import Progress, nobody
from avssl.lips.frames import RATE

_LONGEST = 1200.0  # s: crops of a clip are held in memory, 0.7 MB of each second


@dataclass(frozen=True)
class SpeechClip:
    """What is read of a clip.

    Attributes:
        inputs: raw, lips uint8 [1, T, S, S] and wave float32 [T, K].
        frames: T. rate: frames per second.
        mouths: uint8 [T, H, H, 3], the crops before they are made grey; None: no picture is read.
        row: the scanned manifest row of the file.
    """

    inputs: dict[str, np.ndarray]
    frames: int
    rate: int
    mouths: np.ndarray | None = None
    row: Clip = field(default_factory=lambda: Clip(path=""))


def read_clip(
    path: Path, data: DataConfig, *, row: Clip | None = None, progress: Progress = nobody
) -> SpeechClip:
    """Read what the inputs of `data` are made of, of the whole file.

    A small square picture is a mouth crop already, as tools/prepare_lips.py makes them; of any
    other the mouth is looked for.

    Args:
        row: of the file as scanned, where that has been done.
        progress: told how far the search for the mouth is.

    Raises:
        UserError: the file is not there, cannot be read, lacks a stream, or no face is found.
    """
    row = row or scan_file(path)
    if not row.has_video and not row.has_audio:
        raise UserError(f"{path} cannot be read: {row.reason}")
    if data.needs_video and not row.has_video:
        raise UserError(f"{path} has no picture{_why(row)}: only its sound can be read")
    if data.needs_audio and not row.has_audio:
        raise UserError(f"{path} has no sound{_why(row)}: only its lips can be read")
    try:
        return _read(path, data, row, progress)
    except MediaError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _read(path: Path, data: DataConfig, row: Clip, progress: Progress) -> SpeechClip:
    seconds = extent(row, video=data.needs_video)[1]
    if seconds > _LONGEST:
        raise UserError(
            f"{path} lasts {seconds / 60:.0f} minutes, and at most {_LONGEST / 60:.0f} are read: "
            "cut it into parts"
        )
    frames = frame_count(seconds, data)
    inputs: dict[str, np.ndarray] = {}
    mouths: np.ndarray | None = None
    for name, recipe in data.inputs.items():
        if isinstance(recipe, LipsConfig):
            mouths = _mouths(path, row, recipe, frames, progress)  # [T, H, H, 3]
            frames = len(mouths)
            inputs[name] = cropped_lips(mouths, recipe, None)
    if not frames:
        raise UserError(f"{path} is shorter than one frame: there is nothing to read")
    for name, recipe in data.inputs.items():
        if isinstance(recipe, WaveConfig):
            sound = read_clip_sound(
                Manifest(path.parent, [row]).sound_file(row),
                row,
                start=0.0,
                seconds=frames / recipe.rate,
                sample_rate=recipe.sample_rate,
            )  # [T * K]
            inputs[name] = sound.reshape(frames, recipe.samples)
    return SpeechClip(inputs, frames, data.rate, mouths, row)


def _mouths(
    path: Path, row: Clip, recipe: LipsConfig, frames: int, progress: Progress
) -> np.ndarray:
    """uint8 [T, stored, stored, 3] at the recipe's rate."""
    if is_crop(row):
        times = np.arange(frames) / recipe.rate
        return read_pictures(path, row, times, short_side=recipe.stored)
    from avssl.lips.crops import cropped

    crops = cropped(path, row, progress=progress).crops  # [T, 96, 96, 3]
    count = round(len(crops) / RATE * recipe.rate)
    shown = np.arange(count) * RATE // recipe.rate  # [T]
    sized = scaled(torch.from_numpy(crops[shown]), recipe.stored)  # [T, 3, stored, stored]
    return sized.permute(0, 2, 3, 1).numpy()


def _why(row: Clip) -> str:
    return f" ({row.reason})" if row.reason else ""
