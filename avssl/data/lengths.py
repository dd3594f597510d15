"""What is read of a clip that keeps its own length: mouth crops and waveform, frame by frame.

Letters: T frames of a clip, H W height and width, S pixels of a crop, K samples of a frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avssl.data.config import DataConfig
from avssl.data.length_config import LipsConfig, WaveConfig
from avssl.data.manifest import Clip
from avssl.data.media import read_clip_sound, read_pictures

# of red, green and blue in a grey picture, of 2^16 (ITU-R 601, as Pillow rounds it)
_RED, _GREEN, _BLUE = 19595, 38470, 7471


def frame_count(seconds: float, config: DataConfig) -> int:
    """Frames of a stretch of time."""
    return round(seconds * config.rate)


def longest_frames(config: DataConfig) -> int:
    """Frames that are read of a clip at most."""
    return frame_count(config.reach, config)


def read_stretch(
    root: Path,
    clip: Clip,
    config: DataConfig,
    *,
    begin: float,
    seconds: float,
    random: np.random.Generator | None,
) -> dict[str, np.ndarray]:
    """The raw inputs of a clip but its transcript: pictures uint8 [1, T, S, S], sound [T, K].

    Args:
        root: folder of the manifest.
        clip: a scanned row; `begin` and `seconds` say what of its file it is.
        config: the `data` section.
        random: of the augmentation; None: the middle of a clip that is too long, centre crops.

    Raises:
        MediaError: the file cannot be read.
    """
    whole, rate = frame_count(seconds, config), config.rate
    count = min(whole, longest_frames(config))
    spare = whole - count
    first = spare // 2 if random is None else int(random.integers(spare + 1))
    start = begin + first / rate
    raw: dict[str, np.ndarray] = {}
    for name, recipe in config.inputs.items():
        if isinstance(recipe, LipsConfig):
            times = start + np.arange(count) / rate
            pictures = read_pictures(root / clip.path, clip, times, short_side=recipe.stored)
            raw[name] = cropped_lips(pictures, recipe, random)
        elif isinstance(recipe, WaveConfig):
            sound = read_clip_sound(
                root / clip.sound_path,
                clip,
                start=start,
                seconds=count / rate,
                sample_rate=recipe.sample_rate,
            )
            raw[name] = sound.reshape(count, recipe.samples)
    return raw


def cropped_lips(
    pictures: np.ndarray, recipe: LipsConfig, random: np.random.Generator | None
) -> np.ndarray:
    """uint8 [T, H, W, 3] -> grey uint8 [1, T, S, S]; random: None takes the centre."""
    spare = pictures.shape[1] - recipe.size, pictures.shape[2] - recipe.size
    top, left = (round(x / 2) for x in spare)
    flip = False
    if random is not None:
        top, left = (int(random.integers(x + 1)) for x in spare)
        flip = bool(recipe.flip and random.random() < recipe.flip)
    part = pictures[:, top : top + recipe.size, left : left + recipe.size]
    if flip:
        part = part[:, :, ::-1]
    red, green, blue = np.moveaxis(part.astype(np.uint32), -1, 0)  # [T, S, S] each
    grey = (red * _RED + green * _GREEN + blue * _BLUE + 2**15) >> 16
    return grey.astype(np.uint8)[None]
