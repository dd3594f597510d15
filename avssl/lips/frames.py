"""Pictures of a clip at 25 a second, whatever its own rate, in one pass.

Letters: H W height and width in pixels.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avssl.data.container import MediaError, Source, opened
from avssl.data.manifest import Clip
from avssl.data.pictures import DECORD_REFUSES, EARLY, READERS, converted, shown_pictures
from avssl.data.shards import media_source

if TYPE_CHECKING:
    import av

RATE = 25  # pictures a second
_FAR = 10.0  # s: for stretches that begin later, the reader that the scan has proven may seek
_AT_ONCE = 64 * 2**20  # bytes of pictures that such a reader gives at once


def stretch(clip: Clip) -> tuple[float, int]:
    """Start in s, and number of pictures at 25 a second, of a scanned clip.

    Raises:
        MediaError: it has no picture, or lies outside the file.
    """
    if not clip.has_video or clip.duration is None:
        raise MediaError(clip.reason or "has no picture")
    start = clip.start or 0.0
    end = min(clip.duration, clip.duration if clip.end is None else clip.end)
    if start >= end:
        raise MediaError(f"starts at {start:g} s, the picture ends at {clip.duration:g} s")
    return start, max(1, round((end - start) * RATE))


def fitted(clip: Clip, scale: float) -> tuple[int, int]:
    """Width and height of a scanned clip's upright picture once it is scaled.

    Raises:
        MediaError: it has no picture.
    """
    if not clip.width or not clip.height:
        raise MediaError(clip.reason or "has no picture")
    return max(1, round(clip.width * scale)), max(1, round(clip.height * scale))


def regular_pictures(
    path: Path, clip: Clip, *, size: tuple[int, int], every: int = 1
) -> Iterator[np.ndarray]:
    """For each instant of the clip, 1/25 s apart, the picture that is shown then.

    Args:
        path: of the clip; clip: its scanned row.
        size: upright width and height of the pictures.
        every: of these instants only the first is taken.

    Yields:
        uint8 RGB [H, W, 3].

    Raises:
        MediaError: the file is damaged.
    """
    source = media_source(path, clip)
    start, count = stretch(clip)
    if start > _FAR and _may_seek(clip, size):
        times = start + np.arange(0, count, every) / RATE
        part = max(1, _AT_ONCE // (3 * size[0] * size[1]))
        for first in range(0, len(times), part):
            yield from READERS[clip.reader](
                source,
                times[first : first + part],
                size=size,
                rotation=clip.rotation,
                frames=clip.frames,
            )
        return
    for number, frame in enumerate(_from_start(source, start, count)):
        if number % every == 0:
            yield converted(frame, size=size, rotation=clip.rotation)


def _may_seek(clip: Clip, size: tuple[int, int]) -> bool:
    if clip.reader == "decord":
        return size[0] not in DECORD_REFUSES and importlib.util.find_spec("decord") is not None
    return clip.reader == "pyav"


def _from_start(source: Source, start: float, count: int) -> Iterator["av.VideoFrame"]:
    """The frames shown at `count` instants from `start` (s) on, decoded from the file's start."""
    number = 0
    zero: float | None = None
    shown: av.VideoFrame | None = None
    with opened(source) as container:
        for time, frame in shown_pictures(container):
            zero = time if zero is None else zero
            while shown is not None and start + number / RATE < time - zero - EARLY:
                yield shown
                number += 1
                if number == count:
                    return
            shown = frame
    if shown is None:
        raise MediaError("no picture could be decoded")
    for _ in range(number, count):
        yield shown
