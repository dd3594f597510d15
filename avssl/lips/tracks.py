"""One face for a clip: faces are followed through it, and the largest that stays counts.

Rules, each of which skips a clip with a sentence: a face stays if at least half of the pictures
show it; among several that stay the largest counts, unless another is nearly as large; a face may
be missing for some pictures, whose places are interpolated, and no longer.

Letters: T pictures.
"""

from dataclasses import dataclass

import numpy as np

from avssl.data.container import MediaError
from avssl.lips.mesh import Face

_STAYS = 0.5  # share of the pictures [choice]
_ALIKE = 0.8  # ratio of sides from which on two faces are alike in size [choice]
_MOVES = 0.2  # least overlap of a face's boxes in two pictures


@dataclass
class Track:
    """A face in the pictures that show it."""

    faces: dict[int, Face]  # by number of the picture

    @property
    def side(self) -> float:
        """Mean side of its boxes in pixels."""
        return float(np.mean([np.sqrt(face.box[2:].prod()) for face in self.faces.values()]))


def speaking_face(pictures: list[list[Face]], *, gap: int) -> list[Face]:
    """The face that counts in each picture.

    Args:
        pictures: the faces found in each.
        gap: most pictures in a row in which it may be missing.

    Raises:
        MediaError: no face stays, two are alike, or it is missing for longer than `gap`.
    """
    count = len(pictures)
    if not any(pictures):
        raise MediaError("no face was found")
    tracks = followed(pictures)
    staying = [track for track in tracks if len(track.faces) >= _STAYS * count]
    if not staying:
        longest = max(len(track.faces) for track in tracks)
        raise MediaError(f"no face stays: the one seen longest is in {longest} of {count} pictures")
    staying.sort(key=lambda track: -track.side)
    best = staying[0]
    alike = [track for track in staying[1:] if track.side >= _ALIKE * best.side]
    if alike:
        raise MediaError(f"{len(alike) + 1} faces of like size stay: it is not clear who speaks")
    known = np.array(sorted(best.faces))
    refuse_gaps(known, count, gap=gap)
    values = np.array(
        [np.concatenate([best.faces[k].box, best.faces[k].eyes.ravel()]) for k in known]
    )  # [known, 8]
    filled = interpolated(known, values, count)  # [T, 8]
    return [Face(1.0, row[:4], row[4:].reshape(2, 2)) for row in filled]


def followed(pictures: list[list[Face]]) -> list[Track]:
    """Every face of a clip, each picture's box going to the track that it overlaps most."""
    tracks: list[Track] = []
    for number, faces in enumerate(pictures):
        pairs = [
            (face.overlap(track.faces[max(track.faces)]), track, face)
            for track in tracks
            for face in faces
        ]
        left = list(faces)
        for overlap, track, face in sorted(pairs, key=lambda pair: -pair[0]):
            if overlap < _MOVES:
                break
            if number not in track.faces and any(face is one for one in left):
                track.faces[number] = face
                left = [one for one in left if one is not face]
        tracks += [Track({number: face}) for face in left]
    return tracks


def refuse_gaps(known: np.ndarray, count: int, *, gap: int) -> None:
    """Raise MediaError where more than `gap` numbers in a row of 0 to count are not known."""
    edges = np.concatenate([[-1], known, [count]])
    missing = np.diff(edges) - 1
    worst = int(np.argmax(missing))
    if missing[worst] > gap:
        first, last = int(edges[worst]) + 1, int(edges[worst + 1]) - 1
        raise MediaError(
            f"the face is missing in pictures {first} to {last} of {count}: "
            f"more than {gap} in a row"
        )


def interpolated(known: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Values [T, ...] for every picture from those of the known ones; held at the ends."""
    flat = values.reshape(len(known), -1)
    columns = [np.interp(np.arange(count), known, column) for column in flat.T]
    return np.stack(columns, -1).reshape(count, *values.shape[1:])
