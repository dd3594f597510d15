"""Captions burnt into a video: the words of a line, the one that is being said in another colour.

Letters: H W height and width in pixels.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avssl.data.container import MediaError
from avssl.data.manifest import Clip, Manifest
from avssl.data.usable import extent
from avssl.errors import UserError
from avssl.page.copies import write_copy
from avssl.page.stretch import Stretch
from avssl.speech.align import Word

_SHORTEST = 320  # pixels: smaller pictures are made larger, so that text can be read on them
_WIDEST = 32  # characters of a line, but for longer words
_SHARE = 0.9  # of the picture's width that a line takes at most
_HEIGHT = 1 / 14  # of the picture's short side, of a letter
_BEFORE, _AFTER = 0.2, 1.0  # s that a line stands before its first and after its last word
_SAID, _OTHER, _EDGE = (255, 196, 64), (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Line:
    """Words shown together, from `start` to `end` in s."""

    words: list[Word]
    start: float
    end: float


def lines(words: Sequence[Word]) -> list[Line]:
    """Words in lines of readable length; one goes when the next comes."""
    groups: list[list[Word]] = []
    for word in words:
        length = sum(len(other.text) + 1 for other in groups[-1]) if groups else 0
        if not groups or length + len(word.text) > _WIDEST:
            groups.append([])
        elif word.start - groups[-1][-1].end > _AFTER + _BEFORE:  # a pause
            groups.append([])
        groups[-1].append(word)
    starts = [max(0.0, group[0].start - _BEFORE) for group in groups]
    ends = [group[-1].end + _AFTER for group in groups]
    following = [*starts, float("inf")][1:]
    return [
        Line(group, start, min(end, later))
        for group, start, end, later in zip(groups, starts, ends, following, strict=True)
    ]


def check_target(path: Path, target: Path) -> None:
    """Raises UserError where captions cannot be written to a file, before the clip is read."""
    if target.suffix.lower() != ".mp4":
        raise UserError(f"--captions {target} must end in .mp4")
    if target.exists() and path.exists() and target.samefile(path):
        raise UserError(f"--captions {target} is the clip itself: name another file")
    folder = target.parent
    while not folder.exists():
        folder = folder.parent  # is made when the captions are written
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--captions {target} cannot be written: name a file in another folder")


def check_picture(path: Path, clip: Clip) -> None:
    """Raises UserError where a scanned file has no picture to write on."""
    if not clip.has_video:
        raise UserError(f"{path} has no picture to write captions on: leave --captions out")


def write_captions(path: Path, clip: Clip, words: Sequence[Word], target: Path) -> None:
    """Write a copy of a video with its words on it, with its sound.

    Args:
        clip: the scanned row of the file. target: an .mp4.

    Raises:
        UserError: there is no picture, or the file cannot be read or written.
    """
    check_picture(path, clip)
    start, seconds = extent(clip, video=True)
    stretch = Stretch(
        path, Manifest(path.parent, [clip]).sound_file(clip), clip, start, start + seconds
    )
    short = min(clip.width or _SHORTEST, clip.height or _SHORTEST)
    shown = lines(words)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_copy(
            stretch,
            target,
            short_side=max(short, _SHORTEST),
            draw=lambda picture, time: draw_line(picture, time, shown),
        )
    except MediaError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def draw_line(picture: np.ndarray, time: float, shown: Sequence[Line]) -> np.ndarray:
    """A picture uint8 [H, W, 3] with the line that is shown at a time, if any."""
    from PIL import Image, ImageDraw

    line = next((line for line in shown if line.start <= time < line.end), None)
    if line is None:
        return picture
    image = Image.fromarray(picture)
    height, width = picture.shape[:2]
    size = round(min(height, width) * _HEIGHT)
    whole = " ".join(word.text for word in line.words)
    wide = _font(size).getlength(whole)
    if wide > _SHARE * width:
        size = max(6, int(size * _SHARE * width / wide))
    font, edge = _font(size), max(1, size // 10)
    pen = ImageDraw.Draw(image)
    across = (width - font.getlength(whole)) / 2
    down = height - 1.8 * size
    for word in line.words:
        said = word.start <= time < word.end
        fill = _SAID if said else _OTHER
        pen.text((across, down), word.text, fill, font, stroke_width=edge, stroke_fill=_EDGE)
        across += font.getlength(f"{word.text} ")
    return np.asarray(image)


@functools.lru_cache(maxsize=16)
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib brings along: Latin, Greek, Cyrillic and more."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size)
