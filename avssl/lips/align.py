"""Turning a face upright: smoothed landmarks, a similarity transform to a mean face, the mouth.

RAVEn, section on preprocessing; see also Martinez et al. 2020 (arXiv 2001.08702).

Letters: T pictures, P points, S side of a crop in pixels.
"""

import functools
from dataclasses import dataclass

import numpy as np

from avssl.lips.points import COUNT, FIVE, MOUTH, STABLE, grouped

WINDOW = 12  # pictures around one over which landmarks are smoothed
SIDE = 96  # pixels of a crop

# The 68 points of a mean face in a picture of 256 x 256 pixels: the mean of 651 detections of
# MediaPipe's mesh (86 clips of talking people, turned and scaled to each other by their stable
# points, then made symmetric), scaled so that the corners of the mouth are half a crop apart
# [choice].
_MEAN_FACE = """
    jaw
    59.2 88.8  59.9 103.2  62.9 133.3  67.5 149.6  73.8 162.6  89.6 180.2  105.4 190.9
    115 194.6  127.5 195.9  140 194.6  149.6 190.9  165.4 180.2  181.2 162.6  187.5 149.6
    192.1 133.3  195.1 103.2  195.8 88.8
    brows
    71.7 68.3  77.9 62.2  87.5 59.1  99.7 59.6  113.5 61.2  141.5 61.2  155.3 59.6
    167.5 59.1  177.1 62.2  183.3 68.3
    nose
    127.5 77.9  127.5 92.2  127.5 105.5  127.5 113.9  115.5 123.9  120.6 127.6  127.5 127.5
    134.4 127.6  139.5 123.9
    eyes
    83.1 82.7  90 78.8  100.3 78.2  110.4 83.9  101.2 86.3  91.1 86.1  144.6 83.9
    154.7 78.2  165 78.8  171.9 82.7  163.9 86.1  153.8 86.3
    mouth
    103.5 151.5  113.2 143.8  120.4 141.6  127.5 142.6  134.6 141.6  141.8 143.8
    151.5 151.5  141.4 161.6  135 164.3  127.5 165  120 164.3  113.6 161.6  107.1 150.8
    122.2 149.3  127.5 149.4  132.8 149.3  147.9 150.8  133.4 154.3  127.5 154.6
    121.6 154.3
"""


@functools.cache
def mean_face() -> np.ndarray:
    """The 68 points of the mean face, in pixels of a picture of 256 x 256 [68, 2]."""
    numbers = [float(word) for word in _MEAN_FACE.split() if not word.isalpha()]
    return np.array(numbers).reshape(COUNT, 2)


@dataclass(frozen=True)
class Placement:
    """Where the mouth is in each picture, and how its crop is turned and scaled."""

    mouths: np.ndarray  # x and y of the crops' middles in the pictures, pixels [T, 2]
    steps: np.ndarray  # a crop's pixel to the right and down in its picture, as columns [T, 2, 2]

    def in_crop(self, points: np.ndarray) -> np.ndarray:
        """Points of the pictures [T, P, 2] in pixels of the crops [T, P, 2]."""
        offsets = points - self.mouths[:, None]
        return np.linalg.solve(self.steps[:, None], offsets[..., None])[..., 0] + (SIDE - 1) / 2


def placed(landmarks: np.ndarray) -> Placement:
    """The placement of every crop from landmarks [T, 68 or 5, 2] without gaps."""
    mean = mean_face()
    smooth = smoothed(landmarks)
    points, goal = _compared(smooth)
    steps = np.stack([similarity(goal, one) for one in points])  # [T, 2, 2]
    if landmarks.shape[1] == COUNT:
        mouths = smooth[:, MOUTH].mean(1)  # [T, 2]
    else:
        corners = goal[3:].mean(0)
        below = mean[MOUTH].mean(0) - corners  # the mouth's middle lies below its corners
        mouths = smooth[:, 3:].mean(1) + steps @ below
    return Placement(mouths, steps)


def unlike_a_face(landmarks: np.ndarray) -> np.ndarray:
    """How far landmarks [T, 68 or 5, 2] are from the mean face brought over them by a similarity
    transform, as a share of their own spread [T]: 0 the mean face itself, 1 nothing like it."""
    points, goal = _compared(landmarks)
    turned = np.stack([(goal - goal.mean(0)) @ similarity(goal, one).T for one in points])
    own = points - points.mean(1, keepdims=True)  # [T, P, 2]
    return np.linalg.norm(own - turned, axis=(1, 2)) / np.linalg.norm(own, axis=(1, 2))


def _compared(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points [T, P, 2] of landmarks [T, 68 or 5, 2] that are held against the mean face, and
    those of the mean face [P, 2]."""
    if landmarks.shape[1] == COUNT:
        return grouped(landmarks, STABLE), grouped(mean_face(), STABLE)
    return landmarks, grouped(mean_face(), FIVE)


def smoothed(landmarks: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Landmarks whose shape is the mean of those around, and whose place is their own [T, P, 2].

    The window reaches `window // 2` pictures to either side, as in the authors' code, and shrinks
    at the ends of the clip, by as many on both sides.
    """
    count = len(landmarks)
    result = np.empty_like(landmarks)
    for number in range(count):
        reach = min(window // 2, number, count - 1 - number)
        mean = landmarks[number - reach : number + reach + 1].mean(0)
        result[number] = mean + (landmarks[number].mean(0) - mean.mean(0))
    return result


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation with scale [2, 2] that brings points [P, 2] nearest to others, once both are
    centred (least squares)."""
    here, there = ((points - points.mean(0)) @ (1, 1j) for points in (source, target))
    factor = np.vdot(here, there) / np.vdot(here, here)
    return np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
