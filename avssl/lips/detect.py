"""Which faces each picture of a clip shows: the whole picture is looked at, or tiles of it.

BlazeFace sees 128 x 128 pixels and needs a face of about a sixth of that. Level 0 is the whole
picture; level 1 squares of its short side, level 2 of half of it, each overlapping by half.

Letters: H W height and width in pixels.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from avssl.data.container import MediaError
from avssl.data.manifest import Clip
from avssl.lips.frames import fitted, regular_pictures, stretch
from avssl.lips.mesh import TILE, Face, distinct, finder

Progress = Callable[[int, int], None]  # done, total
_LEVELS = 3
_EVERY = 10  # frames: of these one is looked at to choose the level
_AT_ONCE = 32  # tiles


def nobody(done: int, total: int) -> None:
    """Progress that nobody is told of."""


def found_faces(path: Path, clip: Clip, progress: Progress = nobody) -> list[list[Face]]:
    """The faces in each picture of a scanned clip at 25 pictures a second, in its pixels.

    Args:
        progress: told how many of how many looks at pictures are done: these are the first half.

    Raises:
        MediaError: the file is damaged, or no picture that was looked at shows a face.
    """
    level = _level(path, clip)
    if level is None:
        raise MediaError("no face was found")
    faces: list[list[Face]] = []
    waiting: list[np.ndarray] = []
    for picture in regular_pictures(path, clip, size=_size(clip, level)):
        waiting.append(picture)
        if len(waiting) * len(corners(waiting[0], level)) >= _AT_ONCE:
            faces += _in_pictures(waiting, clip, level)
            waiting = []
            progress(len(faces), 2 * stretch(clip)[1])
    return faces + (_in_pictures(waiting, clip, level) if waiting else [])


def _level(path: Path, clip: Clip) -> int | None:
    """The coarsest level that finds a face in half of some pictures, else that finds most."""
    most, best = 0.0, None
    for level in range(_LEVELS):
        pictures = regular_pictures(path, clip, size=_size(clip, level), every=_EVERY)
        found = [bool(_in_pictures([picture], clip, level)[0]) for picture in pictures]
        share = float(np.mean(found))
        if share > most:
            most, best = share, level
        if share >= 0.5:
            break
    return best


def _size(clip: Clip, level: int) -> tuple[int, int]:
    """Width and height of the upright picture in which a tile is 128 pixels."""
    short, long = sorted(fitted(clip, 1.0))
    return fitted(clip, TILE / (long, short, short / 2)[level])


def corners(picture: np.ndarray, level: int) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of the tiles of a scaled picture, which lie side by side."""
    height, width = picture.shape[:2]
    if level == 0:
        return [((width - TILE) // 2, (height - TILE) // 2)]
    return [(x, y) for y in _spread(height) for x in _spread(width)]


def _spread(length: int) -> list[int]:
    """Starts of tiles over a length, at most half a tile apart."""
    count = 1 + int(np.ceil(max(0, length - TILE) / (TILE / 2)))
    return [round(at) for at in np.linspace(0, max(0, length - TILE), count)]


def _tiles(picture: np.ndarray, level: int) -> Iterator[np.ndarray]:
    """uint8 [128, 128, 3] each, black beyond the picture."""
    for x, y in corners(picture, level):
        tile = np.zeros((TILE, TILE, 3), np.uint8)
        part = picture[max(0, y) : y + TILE, max(0, x) : x + TILE]
        top, left = max(0, -y), max(0, -x)
        tile[top : top + part.shape[0], left : left + part.shape[1]] = part
        yield tile


def _in_pictures(pictures: list[np.ndarray], clip: Clip, level: int) -> list[list[Face]]:
    """The faces of scaled pictures, in pixels of the clip."""
    places = corners(pictures[0], level)
    found = finder().faces(np.stack([tile for one in pictures for tile in _tiles(one, level)]))
    scale = fitted(clip, 1.0)[0] / pictures[0].shape[1]
    result = []
    for number in range(len(pictures)):
        faces = []
        for place, tile in enumerate(found[number * len(places) : (number + 1) * len(places)]):
            faces += [_placed(face, np.array(places[place]), scale) for face in tile]
        result.append(distinct(faces))
    return result


def _placed(face: Face, corner: np.ndarray, scale: float) -> Face:
    """A tile's face in pixels of the clip's pictures."""
    box = np.concatenate([(face.box[:2] + corner) * scale, face.box[2:] * scale])
    return dataclasses.replace(face, box=box, eyes=(face.eyes + corner) * scale)
