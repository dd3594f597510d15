"""Reading a video of a face: its mouth is found, cut out and brought to the size the reader takes.

Letters: B clips, T frames, H W height and width, S pixels of a crop.
"""

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from avssl.data.config import DataConfig
from avssl.data.length_config import LengthsConfig, LipsConfig, WaveConfig
from avssl.lips import mouth_crops
from avssl.speech.clip import read_clip
from avssl.speech.reader import Reader
from tests.speech.rigged import LONGEST, RATE, Rigged, greys, levels
from tests.speech.test_transcribe import lipread

Make = Callable[..., Any]
TEXT, AROUND = "bad cafe", "feed a cab"
PER_SECOND = 2 * RATE  # pictures of the video
LIGHTER = 12  # of 255, for each unit
MIDDLE = slice(22, 66)  # of the 88 pixels of a crop: lips, and the skin around them


class ReadsMouths(Rigged):
    """Sure of the unit that the brightness of a mouth spells, against that of the first frame."""

    def said(self, batch: Mapping[str, Tensor]) -> Tensor:
        grey = greys(batch["video"][..., MIDDLE, MIDDLE])  # [B, T]
        return (grey - grey[:, :1]) / LIGHTER


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "load", lambda folder: ReadsMouths("video"))


def write_lit_face(path: Path, picture: Make, pose: Make) -> None:
    """A face that moves while its brightness spells TEXT, and that of all around it AROUND."""
    said = levels(TEXT)
    around = levels(AROUND)[: len(said)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=PER_SECOND, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.time_base = Fraction(1, PER_SECOND)
        for number, (unit, other) in enumerate(zip(said, around, strict=True)):
            drawn = picture([pose(x=140 + number, turn=number / 4)])  # [H, W, 3]
            sky = np.abs(drawn.astype(int) - drawn[0, 0]).max(-1, keepdims=True) < 3
            lit = np.where(sky, 24 * other + 24, 0.6 * drawn + LIGHTER * unit)
            frame = lit.round().astype(np.uint8)
            for _ in range(PER_SECOND // RATE):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


@pytest.mark.usefixtures("detector")
def test_lips_are_read_from_a_video_of_a_face(
    tmp_path: Path,
    picture: Make,
    pose: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_lit_face(tmp_path / "face.mp4", picture, pose)
    assert lipread(monkeypatch, tmp_path / "face.mp4", "--model", "video", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == TEXT and found["confidence"] > 0.6
    first, second = found["words"]
    assert first["start"] == pytest.approx(2 / RATE, abs=0.09)  # as `levels` has it
    assert second["start"] == pytest.approx((2 + 5 * TEXT.index("cafe")) / RATE, abs=0.09)


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize(("size", "stored", "rate"), [(88, 96, 25), (32, 36, 25), (40, 48, 50)])
def test_crops_have_the_size_and_rate_that_the_reader_takes(
    tmp_path: Path, write_talk: Make, pose: Make, size: int, stored: int, rate: int
) -> None:
    path = write_talk(tmp_path / "face.mp4", [[pose(opening=4 * k)] for k in range(6)])
    lips, wave = LipsConfig(size=size, stored=stored, rate=rate), WaveConfig(rate=rate)
    data = DataConfig(lengths=LengthsConfig(longest=LONGEST), inputs={"video": lips, "audio": wave})
    clip = read_clip(path, data)
    count = 6 * rate // 25
    assert (clip.frames, clip.rate) == (count, rate)
    assert clip.inputs["video"].shape == (1, count, size, size)
    assert clip.inputs["audio"].shape == (count, 16000 // rate)
    crops = mouth_crops(path)  # [6, 96, 96, 3]
    side = (stored, stored)
    for number in range(count):
        whole = Image.fromarray(crops[number * 25 // rate]).resize(side, Image.Resampling.BILINEAR)
        assert clip.mouths is not None
        assert np.abs(clip.mouths[number].astype(int) - np.array(whole)).max() <= 2
        edge = (stored - size) // 2
        grey = np.array(whole.convert("L"))[edge : edge + size, edge : edge + size]
        assert np.abs(clip.inputs["video"][0, number].astype(int) - grey).max() <= 2


@pytest.mark.usefixtures("detector")
def test_videos_that_do_not_show_who_speaks_end_with_a_sentence(
    tmp_path: Path,
    write_talk: Make,
    pose: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left, right = pose(x=90, scale=0.7), pose(x=230, scale=0.65)
    for name, shown, reason in (
        ("none.mp4", [[]] * 5, "no face was found"),
        ("two.mp4", [[left, right]] * 5, "2 faces of like size stay: it is not clear who speaks"),
        ("left.mp4", [[pose()]] * 2 + [[]] * 8, "no face stays"),
    ):
        write_talk(tmp_path / name, shown, sound=False)
        assert lipread(monkeypatch, tmp_path / name, "--model", "video") == 2, name
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        assert f"{name} cannot be read: {reason}" in printed.err
