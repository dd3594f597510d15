"""Matches to look at: a table, JSON, and a contact sheet of their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avssl.data.media import MediaError, read_clip_sound, read_pictures
from avssl.data.usable import extent
from avssl.retrieval.search import Match, Search

if TYPE_CHECKING:
    from PIL import Image

_TILE = 160  # pixels
_TEXT = 34  # pixels below a tile
_COLUMNS = 5
_RATE = 16000  # Hz


def table(matches: Sequence[Match]) -> str:
    """Rank, score, id, path, time and label in columns."""
    rows = [("rank", "score", "id", "path", "time", "label")]
    for rank, match in enumerate(matches, start=1):
        rows.append(
            (
                str(rank),
                f"{match.score:.4f}",
                str(match.id),
                printable(match.path),
                _time(match),
                printable(match.label),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (True, True, True, False, False, False)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def printable(text: str) -> str:
    """Text for a terminal: control characters, newlines among them, as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def as_json(search: Search, matches: Sequence[Match]) -> list[dict[str, Any]]:
    """The matches with their rank and file, for `json.dumps`; of a member of a tar, the file is
    the tar, with the member's place in it."""
    found = []
    for rank, match in enumerate(matches, start=1):
        clip = search.clip(match.id)
        member = {"tar_offset": clip.tar_offset, "tar_bytes": clip.tar_bytes}
        row = {"rank": rank, "file": str(search.stored(match.id)), **asdict(match)}
        found.append(row if clip.tar_offset is None else row | member)
    return found


def contact_sheet(path: Path, search: Search, matches: Sequence[Match]) -> list[tuple[str, str]]:
    """Write a picture of the matches' middle frames, best first.

    A clip without a picture shows its loudness over time. Returns (path, reason) of clips that
    could not be read, which stay grey.
    """
    from PIL import Image, ImageDraw

    lines = -(-len(matches) // _COLUMNS)
    size = (min(len(matches), _COLUMNS) * (_TILE + 8) + 8, lines * (_TILE + _TEXT) + 8)
    sheet, failures = Image.new("RGB", size, "white"), []
    draw = ImageDraw.Draw(sheet)
    for place, match in enumerate(matches):
        left, top = 8 + place % _COLUMNS * (_TILE + 8), 8 + place // _COLUMNS * (_TILE + _TEXT)
        try:
            sheet.paste(middle_picture(search, match.id, size=_TILE), (left, top))
        except MediaError as error:
            failures.append((match.path, str(error)))
            draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), fill="lightgrey")
        name = printable(match.path)
        name = name if len(name) <= 24 else "..." + name[-21:]
        text = f"{place + 1}  {match.score:.3f}  {printable(match.label)[:12]}\n{name}"
        draw.multiline_text((left, top + _TILE + 2), text, fill="black", spacing=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return failures


def middle_picture(search: Search, id: int, *, size: int) -> Image.Image:
    """The frame in the middle of a clip, cut to a square; its loudness where it has no picture.

    Raises:
        MediaError: the clip cannot be read.
    """
    from PIL import Image, ImageOps

    clip = search.clip(id)
    video = bool(clip.has_video)
    start, length = extent(clip, video=video)
    if video:
        file = search.file(id)
        pictures = read_pictures(file, clip, [start + length / 2], short_side=size)  # [1, H, W, 3]
        return ImageOps.fit(Image.fromarray(np.ascontiguousarray(pictures[0])), (size, size))
    sound = read_clip_sound(
        search.sound_file(id), clip, start=start, seconds=length, sample_rate=_RATE
    )
    pixels = np.full((size, size), 255, np.uint8)
    for column, part in enumerate(np.array_split(np.abs(sound), size)):
        half = int(min(1.0, float(part.max(initial=0.0))) * (size // 2 - 1))
        pixels[size // 2 - half : size // 2 + half + 1, column] = 64
    return Image.fromarray(pixels).convert("RGB")


def _time(match: Match) -> str:
    if match.start is None and match.end is None:
        return "all"
    end = "end" if match.end is None else f"{match.end:.2f} s"
    return f"{match.start or 0:.2f} to {end}"
