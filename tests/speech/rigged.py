"""Clips whose brightness and pitch spell a text, and a reader that reads just these.

Letters: B clips, T frames, U units, S pixels of a crop, K samples of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from avssl.data.config import DataConfig
from avssl.data.length_config import LengthsConfig, LipsConfig, WaveConfig
from avssl.ops.frames import valid_frames
from avssl.speech.decoding import Decoding, Hypothesis
from avssl.speech.search import decode
from avssl.speech.units import Units

UNITS = Units.characters("abcdef ")
RATE, SOUND_RATE = 25, 16000
SAID, SILENT = 3, 2  # frames of a letter, and of nothing behind it
LONGEST = 4.0  # s
PITCH = 500  # Hz of unit 1, and so on
_SURE = 0.9


def levels(text: str, *, frames: int | None = None) -> list[int]:
    """The unit of each frame; letters begin at frame 2, 7, 12, ..."""
    found = [0] * SILENT
    for unit in UNITS.encode(text) if text else []:
        found += [unit] * SAID + [0] * SILENT
    return found + [0] * ((frames or 0) - len(found))


def write_talk(
    path: Path, text: str | None, sound: str | None = None, *, size: tuple[int, int] = (96, 96)
) -> None:
    """A video whose pictures spell a text and whose sound spells another; None: no such stream."""
    pictures = None if text is None else levels(text)
    waves = None if sound is None else levels(sound, frames=len(pictures or []))
    with av.open(str(path), "w") as out:
        video = audio = None
        if pictures is not None:
            video = out.add_stream("libx264", rate=RATE)
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
        if waves is not None:
            audio = out.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for unit in pictures or []:
            assert video is not None
            image = np.full((size[1], size[0], 3), 24 * unit + 24, np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if video is not None:
            out.mux(video.encode())
        if audio is not None:
            assert waves is not None
            pitch = np.repeat(np.array(waves, np.float32), SOUND_RATE // RATE) * PITCH
            tone = np.sin(np.cumsum(pitch) * (2 * np.pi / SOUND_RATE)).astype(np.float32) / 2
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
            out.mux(audio.encode(frame))
            out.mux(audio.encode())


class Rigged:
    """Takes the place of a `Reader`: CTC is sure of the unit that a frame spells."""

    lm = None
    settings = Decoding(beam=3)
    device = torch.device("cpu")

    def __init__(self, kind: str) -> None:
        inputs = {"video": LipsConfig(), "audio": WaveConfig()}
        if kind != "both":
            inputs = {kind: inputs[kind]}
        self.kind, self.units = kind, UNITS
        self.data = DataConfig(lengths=LengthsConfig(longest=LONGEST), inputs=inputs)
        self.longest = 0  # frames that it was given at once

    def to(self, device: torch.device) -> Rigged:
        return self

    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        unit = self.said(batch)  # [B, T]
        shape = unit.shape
        unit = unit.round().long().clamp(0, len(UNITS) - 2)
        spread = (1 - _SURE) / len(UNITS)
        scores = torch.nn.functional.one_hot(unit, len(UNITS)) * _SURE + spread
        self.longest = max(self.longest, shape[1])
        return scores.log(), valid_frames(batch["frames"], *shape).sum(1)

    def said(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The unit that each frame spells, float [B, T]."""
        if "video" in batch:
            return (greys(batch["video"]) - 24) / 24
        power = torch.fft.rfft(batch["audio"]).abs()  # [B, T, K / 2 + 1], 25 Hz apart
        return power.argmax(-1) * RATE / PITCH

    def ctc(self, memory: Tensor) -> Tensor:
        return memory

    def search(
        self, memory: Tensor, lengths: Tensor, log_probs: Tensor, settings: Decoding
    ) -> list[Hypothesis]:
        return decode(log_probs, lengths, None, settings=settings, lm=None)


def greys(video: Tensor) -> Tensor:
    """Mean brightness of lips [B, 1, T, S, S], from 0 to 255: [B, T]."""
    return (video.mean((1, 3, 4)) * 0.165 + 0.421) * 255
