"""Landmarks: which points a detector's schemes hold, and how files of them are read.

`68` is the scheme of 300-W (Sagonas et al. 2013): 0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes,
48-67 mouth; it is what everything here works with. `5` are the two eyes, the tip of the nose and
the corners of the mouth; `468` and `478` are MediaPipe's mesh without and with irises.

Letters: T pictures, P points.
"""

import csv
import json
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from avssl.data.container import MediaError

# the mesh's points nearest to the 68, jaw to mouth, from the person's right to the left; MediaPipe
# has no such table, so which points these are is ours [choice]
_MESH = [
    *(127, 234, 132, 58, 172, 150, 176, 148, 152, 377, 400, 379, 397, 288, 361, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
]
COUNT = 68
MOUTH = list(range(48, 68))
# of the 68: what moves little with speech or expression (eyes, nose, corners of the mouth)
STABLE = [[28], [33], [36], [39], [42], [45], [48], [54]]
# the 68's counterparts of the 5 points, which are the mean of those listed
FIVE = [list(range(36, 42)), list(range(42, 48)), [30], [48], [54]]
SUFFIXES = (".npy", ".json", ".csv")
_DAMAGE = (
    *(OSError, EOFError, RecursionError, MemoryError, ArithmeticError, BadZipFile, csv.Error),
    *(ValueError, TypeError, KeyError),  # what was read is of another kind
)


def from_mesh(points: np.ndarray) -> np.ndarray:
    """The 68 among the points of a mesh [..., 468 or 478, 2]."""
    return points[..., _MESH, :]


def grouped(points: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """Means of groups of points [..., P, 2]: [..., groups, 2]."""
    return np.stack([points[..., group, :].mean(-2) for group in groups], -2)


def landmark_file(folder: Path, path: str) -> Path:
    """The landmarks of a clip: a file of its name in the same tree of folders.

    Raises:
        MediaError: there is none.
    """
    stem = folder / Path(path).with_suffix("")
    for suffix in SUFFIXES:
        file = stem.with_name(stem.name + suffix)
        if file.is_file():
            return file
    raise MediaError(f"no landmarks: {stem}.npy (.json, .csv) is missing")


def read_landmarks(file: Path) -> np.ndarray:
    """Landmarks of every picture of a file, float64 [T, 68 or 5, 2]; NaN where there is no face.

    A .npy holds [T, P, 2] (more numbers for a point are left out); a .json the same as nested
    lists, with null for a picture without a face; a .csv x0, y0, x1, ... in a line for each
    picture, empty cells or an empty line without a face, and a first line of names if need be.
    Points that are all the same, such as zeros, stand for no face, too.

    Raises:
        MediaError: the file cannot be read, or its scheme is not known.
    """
    try:
        points = {".npy": _read_npy, ".json": _read_json, ".csv": _read_csv}[file.suffix](file)
    except _DAMAGE as error:
        raise MediaError(f"the landmarks {file.name} cannot be read ({error})") from None
    if points.ndim != 3 or points.shape[0] == 0 or points.shape[2] < 2:
        raise MediaError(f"the landmarks {file.name} have the shape {points.shape}, not [T, P, 2]")
    points = points[..., :2]
    if points.shape[1] in (468, 478):
        points = from_mesh(points)
    if points.shape[1] not in (COUNT, len(FIVE)):
        raise MediaError(
            f"the landmarks {file.name} have {points.shape[1]} points: 5, 68, 468 and 478 are known"
        )
    points[~np.isfinite(points).all((1, 2)) | (points == points[:, :1]).all((1, 2))] = np.nan
    return points


def _read_npy(file: Path) -> np.ndarray:
    return np.array(np.load(file, allow_pickle=False), np.float64)


def _read_json(file: Path) -> np.ndarray:
    pictures = json.loads(file.read_text(encoding="utf-8"))
    shown = [picture for picture in pictures if picture is not None]
    if not shown:
        raise ValueError("no picture has landmarks")
    blank = np.full(np.shape(shown[0]), np.nan)
    return np.array([blank if one is None else one for one in pictures], np.float64)


def _read_csv(file: Path) -> np.ndarray:
    with open(file, newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.reader(lines))
    if rows and any(cell.strip() and not _is_number(cell) for cell in rows[0]):
        rows = rows[1:]
    width = max((len(row) for row in rows), default=0)
    if width == 0 or width % 2:
        raise ValueError(f"its lines hold {width} numbers, not x and y of each point")
    values = np.full((len(rows), width), np.nan)
    for row, cells in zip(values, rows, strict=True):
        if len(cells) == width and all(cell.strip() for cell in cells):
            row[:] = [float(cell) for cell in cells]
        elif any(cell.strip() for cell in cells):
            raise ValueError("a line holds some of its numbers only")
    return values.reshape(len(rows), -1, 2)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
