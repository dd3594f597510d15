"""Crops of the mouth from a video of a face: the whole way from a file to uint8 [T, 96, 96, 3].

    from avssl.lips import mouth_crops
    crops = mouth_crops("talk.mp4")     # uint8 RGB [T, 96, 96, 3], 25 pictures a second

Letters: T pictures, P points, H W height and width in pixels.
"""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avssl.data.container import MediaError
from avssl.data.manifest import Clip
from avssl.data.probe import probe_clip
from avssl.errors import UserError
from avssl.lips.align import SIDE, placed, unlike_a_face
from avssl.lips.detect import Progress, found_faces, nobody
from avssl.lips.frames import RATE, fitted, regular_pictures, stretch
from avssl.lips.mesh import Face, finder
from avssl.lips.points import from_mesh, read_landmarks
from avssl.lips.tracks import interpolated, refuse_gaps, speaking_face
from avssl.lips.warp import cut_out

GAP = 10  # pictures: the face may be missing for as many in a row [choice]
_FACE = 200  # pixels: faces in pictures are made smaller to about this side before they are cut
_SURE = 0.5  # least score of a mesh
_STEADY = 5  # pictures over which the square of the mesh is smoothed
_LEAST = 4.0  # pixels over which given landmarks must spread: coordinates from 0 to 1 do not
_UNLIKE = 0.5  # most that given landmarks may be off a mean face; real ones are off by 0.02 to 0.1
_AT_ONCE = 64 * 2**20  # bytes of pictures


@dataclass(frozen=True)
class Mouth:
    """The crops of one clip."""

    crops: np.ndarray  # uint8 RGB [T, 96, 96, 3]
    landmarks: np.ndarray  # 68 or 5 points in pixels of the crops, float32 [T, P, 2]


def mouth_crops(
    path: str | os.PathLike[str],
    *,
    start: float | None = None,
    end: float | None = None,
    gap: int = GAP,
) -> np.ndarray:
    """Upright crops of the speaker's mouth, 25 a second.

    Args:
        path: a video of a face, in any format and rate.
        start: s from the first picture; None: from the beginning.
        end: s; None: to the end.
        gap: most pictures in a row in which the face may be missing.

    Returns:
        uint8 RGB [T, 96, 96, 3].

    Raises:
        UserError: the file cannot be read, or no face, several of like size, or one that leaves.
    """
    folder, name = os.path.split(os.path.abspath(path))
    clip = probe_clip(folder, Clip(path=name, start=start, end=end))
    try:
        return cropped(Path(folder) / name, clip, gap=gap).crops
    except MediaError as error:
        raise UserError(f"{os.fspath(path)}: {error}") from None


def cropped(
    path: Path,
    clip: Clip,
    *,
    gap: int = GAP,
    landmarks: Path | None = None,
    progress: Progress = nobody,
) -> Mouth:
    """The crops of a scanned clip.

    Args:
        path: its file.
        gap: most pictures in a row in which the face may be missing.
        landmarks: a file with the landmarks of every picture, instead of finding them.
        progress: told how many of how many looks at pictures are done; each is looked at twice.

    Raises:
        MediaError: why there are none.
    """
    if landmarks is None:
        faces = speaking_face(found_faces(path, clip, progress), gap=gap)
        points = _meshes(path, clip, _steady(faces), gap=gap, progress=progress)  # [T, 68, 2]
    else:
        points = _given(landmarks, clip, gap=gap)  # [T, 68 or 5, 2]
    where = placed(points)
    scale = min(1.0, 1 / float(np.median(np.linalg.norm(where.steps[:, :, 0], axis=1))))
    crops = np.empty((len(points), SIDE, SIDE, 3), np.uint8)
    done = 0
    for pictures, ratio in _chunks(path, clip, scale):
        part = slice(done, done + len(pictures))
        middles = (where.mouths[part] + 0.5) * ratio - 0.5
        cut = cut_out(pictures, middles, where.steps[part] * ratio[:, None], SIDE)
        crops[part] = cut.round().clip(0, 255).transpose(0, 2, 3, 1)
        done += len(pictures)
    return Mouth(crops, where.in_crop(points).astype(np.float32))


def _steady(faces: list[Face]) -> list[Face]:
    """Faces whose boxes move smoothly, so that the mesh's square does not tremble."""
    reach = _STEADY // 2
    result = []
    for number, face in enumerate(faces):
        around = faces[max(0, number - reach) : number + reach + 1]
        sides = np.mean([one.box[2:] for one in around], axis=0)
        tilt = np.mean([one.eyes - one.eyes.mean(0) for one in around], axis=0)
        box = np.concatenate([face.box[:2], sides])
        result.append(dataclasses.replace(face, box=box, eyes=face.eyes.mean(0) + tilt))
    return result


def _meshes(
    path: Path, clip: Clip, faces: list[Face], *, gap: int, progress: Progress
) -> np.ndarray:
    """The 68 points of the face in every picture, in pixels of the clip [T, 68, 2]."""
    side = float(np.median([face.box[2:].max() for face in faces]))
    found, known = [], []
    number = 0
    for pictures, ratio in _chunks(path, clip, min(1.0, _FACE / side)):
        for picture in pictures:
            face = faces[number]
            box = np.concatenate([(face.box[:2] + 0.5) * ratio - 0.5, face.box[2:] * ratio])
            near = dataclasses.replace(face, box=box, eyes=(face.eyes + 0.5) * ratio - 0.5)
            points, score = finder().mesh(picture, near)
            if score >= _SURE:
                found.append((from_mesh(points) + 0.5) / ratio - 0.5)
                known.append(number)
            number += 1
            progress(len(faces) + number, 2 * len(faces))
    if not known:
        raise MediaError("no face was found")
    refuse_gaps(np.array(known), number, gap=gap)
    return interpolated(np.array(known), np.stack(found), number)


def _given(file: Path, clip: Clip, *, gap: int) -> np.ndarray:
    """Landmarks of a file, for every instant of the clip [T, P, 2]."""
    points = read_landmarks(file)
    start, count = stretch(clip)
    assert clip.duration is not None
    if len(points) == clip.frames:
        rate = clip.frames / clip.duration
    elif len(points) == round(clip.duration * RATE):
        rate = float(RATE)
    else:
        raise MediaError(
            f"the landmarks {file.name} are for {len(points)} pictures, the clip has {clip.frames}"
        )
    index = np.floor((start + np.arange(count) / RATE) * rate + 1e-3).astype(int)
    points = points[index.clip(0, len(points) - 1)]
    known = np.flatnonzero(np.isfinite(points).all((1, 2)))
    if not len(known):
        raise MediaError("no face was found")
    refuse_gaps(known, count, gap=gap)
    _refuse_misfits(points[known], fitted(clip, 1.0), file.name)
    return interpolated(known, points[known], count)


def _refuse_misfits(points: np.ndarray, size: tuple[int, int], name: str) -> None:
    """Raise MediaError where landmarks [T, P, 2] are of no face in a picture of that size."""
    span = float(np.median(np.ptp(points, axis=1).max(-1)))
    x, y = np.median(points.mean(1), axis=0)
    if span < _LEAST or not (0 <= x < size[0] and 0 <= y < size[1]):
        raise MediaError(
            f"the landmarks {name} lie around {x:.0f}, {y:.0f}, {span:.1f} pixels wide, which "
            f"is no face in a picture of {size[0]} x {size[1]}: they must be in its pixels"
        )
    unlike = float(np.median(unlike_a_face(points)))
    if not unlike <= _UNLIKE:
        raise MediaError(
            f"the landmarks {name} have not the shape of a face (off by {unlike:.0%} of their "
            "spread): their order must be that of the 68, 5, 468 or 478 points"
        )


def _chunks(path: Path, clip: Clip, scale: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Upright pictures [n, H, W, 3], made smaller by `scale`, and how much in x and y [2]."""
    size = fitted(clip, scale)
    ratio = np.array(size) / fitted(clip, 1.0)
    waiting: list[np.ndarray] = []
    for picture in regular_pictures(path, clip, size=size):
        waiting.append(picture)
        if len(waiting) * waiting[0].nbytes >= _AT_ONCE:
            yield np.stack(waiting), ratio
            waiting = []
    if waiting:
        yield np.stack(waiting), ratio
