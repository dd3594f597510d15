"""The parts of the `data` section for clips that keep their own length."""

from dataclasses import dataclass
from typing import Literal

FRAMES = "T"  # stands in shapes for the number of frames of a clip
REAL = "frames"  # entry of a batch: where the real frames of its clips stand, int64 [V]


def positive(item: object, *names: str) -> None:
    """Raises ValueError for fields that are not above 0."""
    for name in names:
        value = getattr(item, name)
        if not value > 0:
            raise ValueError(f"{name} must be above 0, found {value}")


@dataclass(frozen=True)
class LipsConfig:
    """Mouth crops at `rate` pictures a second: float32 [B, 1, T, size, size], T frames of the clip.

    Frame k is the picture shown at start + k / rate, read with `stored` pixels on a side; grey,
    (x / 255 - mean) / std, and 0 behind the end of a clip. The file holds square mouth crops, as
    tools/prepare_lips.py makes them.
    """

    type: Literal["lips"] = "lips"
    size: int = 88  # pixels, square: cut out of
    stored: int = 96  # training: at one random place for the whole clip; else the centre
    rate: int = 25  # frames per second
    flip: float = 0.0  # training: probability of a horizontal flip, of the whole clip
    mean: float = 0.421
    std: float = 0.165

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Of one clip: [1, T, H, W]."""
        return (1, FRAMES, self.size, self.size)

    def __post_init__(self) -> None:
        positive(self, "size", "rate", "std")
        if self.stored < self.size:
            raise ValueError(f"stored must be at least size ({self.size}), found {self.stored}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is a probability, found {self.flip}")


@dataclass(frozen=True)
class WaveConfig:
    """The waveform, cut into frames: float32 [B, T, sample_rate / rate] in [-1, 1].

    Exactly the T frames of the clip, silence where there is no sound; 0 behind the end of a clip.
    """

    type: Literal["wave"] = "wave"
    sample_rate: int = 16000  # Hz
    rate: int = 25  # frames per second

    @property
    def samples(self) -> int:
        """Samples of a frame."""
        return self.sample_rate // self.rate

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Of one clip: [T, samples of a frame]."""
        return (FRAMES, self.samples)

    def __post_init__(self) -> None:
        positive(self, "sample_rate", "rate")
        if self.sample_rate % self.rate:
            raise ValueError(
                f"sample_rate ({self.sample_rate}) must be a multiple of rate ({self.rate})"
            )


@dataclass(frozen=True)
class TextConfig:
    """Units of the transcript in the manifest's column `text`: int64 [B, U], -1 behind the end.

    A clip whose transcript is empty, holds what is no unit, or needs more units than the clip has
    frames, is left out.
    """

    type: Literal["text"] = "text"
    units: Literal["characters", "sentencepiece"] = "characters"
    alphabet: str = "abcdefghijklmnopqrstuvwxyz' "  # of characters
    model: str | None = None  # file of the SentencePiece model

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Of one clip: [U]."""
        return ("U",)

    def __post_init__(self) -> None:
        if (self.units == "sentencepiece") != (self.model is not None):
            raise ValueError("model is the file of units: sentencepiece, and of no other")
        if self.units == "characters" and len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(f"alphabet names a character twice: {self.alphabet!r}")
        if self.units == "characters" and not self.alphabet:
            raise ValueError("alphabet is empty")


@dataclass(frozen=True)
class LengthsConfig:
    """Clips keep their own length, and batches are made of clips of similar length.

    Clips are parted into buckets by length. A batch comes from one bucket, whose batches all have
    the same number of clips: as many as fit the budget at the length of its longest.
    """

    budget: int = 1500  # frames of a step, all ranks together, padding included
    longest: float = 10.0  # s; of longer clips a stretch is read; left out where text is read
    shortest: float = 0.4  # s; shorter clips are left out
    buckets: int = 8

    def __post_init__(self) -> None:
        positive(self, "budget", "shortest", "buckets")
        if self.longest < self.shortest:
            raise ValueError(
                f"longest ({self.longest:g} s) is less than shortest ({self.shortest:g} s)"
            )
