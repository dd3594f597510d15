"""Pictures of a clip at 25 a second, whatever its own rate, in one pass from the file's start.

Decoding from the start is right for every file, also for those in which seeking goes wrong.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from avssl.data.container import MediaError, opened
from avssl.data.manifest import Clip
from avssl.data.pictures import EARLY, shown_pictures

if TYPE_CHECKING:
    import av

RATE = 25  # pictures a second


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


def regular_frames(path: Path, clip: Clip) -> Iterator["av.VideoFrame"]:
    """For each instant of the clip, 1/25 s apart, the frame that is shown then.

    Args:
        path: the file; clip: its scanned row.

    Raises:
        MediaError: the file is damaged.
    """
    start, count = stretch(clip)
    number = 0
    zero: float | None = None
    shown: av.VideoFrame | None = None
    with opened(path) as container:
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
