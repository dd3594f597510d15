"""The contact sheet of prepared crops: a row for each clip, with the mouth's landmarks.

Letters: T pictures, P points.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avssl.data.container import MediaError
from avssl.data.manifest import Clip
from avssl.data.media import read_pictures
from avssl.files import half_written
from avssl.lips.frames import RATE
from avssl.lips.points import COUNT, MOUTH

_COLUMNS = 8  # pictures of a clip
_CELL = 144  # pixels
_LINE = 16  # pixels: height of the line with the name


def points_file(folder: Path, path: str) -> Path:
    """Where the landmarks of a clip's crops lie, [T, P, 2] in their pixels."""
    return folder / ".landmarks" / Path(path).with_suffix(".npy")


def contact_sheet(folder: Path, clips: Sequence[Clip], *, rows: int) -> None:
    """Write folder/sheet.jpg with clips spread evenly over all, each as some of its pictures."""
    from PIL import Image, ImageDraw

    picked = np.unique(np.linspace(0, len(clips) - 1, min(rows, len(clips))).astype(int))
    height = _LINE + _CELL
    sheet = Image.new("RGB", (_COLUMNS * _CELL, len(picked) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for line, number in enumerate(picked):
        clip = clips[number]
        draw.text((2, line * height + 2), clip.path.encode("ascii", "replace").decode(), "black")
        for column, cell in enumerate(_cells(folder, clip)):
            sheet.paste(Image.fromarray(cell), (column * _CELL, line * height + _LINE))
    partial = half_written(folder / "sheet.jpg")
    sheet.save(partial, format="JPEG", quality=90)
    partial.replace(folder / "sheet.jpg")


def _cells(folder: Path, clip: Clip) -> list[np.ndarray]:
    """Enlarged pictures uint8 [144, 144, 3] of one clip, landmarks as dots; none if unreadable."""
    from PIL import Image, ImageDraw

    count = clip.frames or 1
    chosen = np.linspace(0, count - 1, _COLUMNS).astype(int)
    try:
        crops = read_pictures(folder / clip.path, clip, chosen / RATE)  # [8, H, W, 3]
        points = np.load(points_file(folder, clip.path), allow_pickle=False)[chosen]  # [8, P, 2]
    except (MediaError, OSError, ValueError, IndexError):
        return []
    shown = MOUTH if points.shape[1] == COUNT else slice(None)
    cells = []
    for crop, dots in zip(crops, points[:, shown].astype(float), strict=True):
        cell = Image.fromarray(crop).resize((_CELL, _CELL), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(cell)
        for x, y in (dots + 0.5) * (_CELL / crop.shape[1]):
            draw.rectangle([x, y, x + 1, y + 1], fill=(0, 255, 0))
        cells.append(np.array(cell))
    return cells
