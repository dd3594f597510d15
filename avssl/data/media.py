"""Reading a clip: the pictures and the sound of one window, through the reader that was recorded.

pictures = read_pictures(manifest.file(clip), clip, [0.0, 0.5, 1.0], short_side=96)
sound = read_clip_sound(manifest.sound_file(clip), clip, start=0.0, seconds=1.5, sample_rate=16000)
"""

import functools
import importlib.util
import os
from collections.abc import Sequence

import numpy as np

from avssl.data.container import MediaError
from avssl.data.manifest import Clip
from avssl.data.pictures import DECORD_REFUSES, READERS
from avssl.data.shards import media_source
from avssl.data.sound import read_sound

__all__ = ["MediaError", "read_clip_sound", "read_pictures", "scaled_size"]


def read_pictures(
    path: str | os.PathLike[str],
    clip: Clip,
    times: Sequence[float] | np.ndarray,
    *,
    short_side: int | None = None,
) -> np.ndarray:
    """Upright pictures shown at `times` (s from the file's first picture, any order).

    Args:
        path: the clip's file.
        clip: its scanned manifest row, which names the reader.
        short_side: pixels of the result's shorter side; None keeps the file's size.

    Returns:
        uint8 RGB [K, H, W, 3].

    Raises:
        MediaError: the file cannot be read as its row promises.
    """
    if not clip.has_video or clip.reader not in READERS:
        raise MediaError(clip.reason or "has no picture")
    size = scaled_size(clip, short_side)
    reader = clip.reader
    # manifests travel to platforms that decord is not made for
    if reader == "decord" and (size[0] in DECORD_REFUSES or not _has_decord()):
        reader = "pyav-linear"
    return READERS[reader](
        media_source(path, clip),
        times,
        size=size,
        rotation=clip.rotation,
        frames=clip.frames,
    )


def read_clip_sound(
    path: str | os.PathLike[str], clip: Clip, *, start: float, seconds: float, sample_rate: int
) -> np.ndarray:
    """Mono sound, float32 [seconds * sample_rate], from `start` (s from the first picture).

    Args:
        path: the clip's sound file, `Manifest.sound_file(clip)`.

    Raises:
        MediaError: the sound cannot be read.
    """
    if not clip.has_audio:
        raise MediaError(clip.reason or "has no sound")
    # a wav beside the clip is a file of its own
    source = path if clip.wav else media_source(path, clip)
    return read_sound(
        source, start=start, seconds=seconds, sample_rate=sample_rate, offset=clip.sound_offset
    )


def scaled_size(clip: Clip, short_side: int | None) -> tuple[int, int]:
    """Width and height whose shorter side is `short_side`, in the picture's proportions."""
    if not clip.width or not clip.height:
        raise MediaError("the manifest row has no width and height: scan again")
    if short_side is None:
        return clip.width, clip.height
    scale = short_side / min(clip.width, clip.height)
    return max(short_side, round(clip.width * scale)), max(short_side, round(clip.height * scale))


@functools.cache
def _has_decord() -> bool:
    return importlib.util.find_spec("decord") is not None
