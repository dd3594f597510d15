"""The `data` section of an experiment: where clips come from, what inputs are made of."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from avssl.errors import UserError

FRAMES = "T"  # stands in shapes for the number of frames of a clip

# Statistics of ImageNet (RGB, 0 to 1), used by every recipe for pictures.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FbankConfig:
    """Log-mel filterbank of the window's sound: float32 [B, 1, frames, bins].

    Kaldi's fbank (25 ms Hanning window, 10 ms shift, htk_compat, no energy, no dither) of the
    mean-removed waveform, padded with zeros or cut to `frames`, then (x - mean) / (2 std).
    """

    type: Literal["fbank"] = "fbank"
    sample_rate: int = 16000  # Hz
    bins: int = 128  # mel bins
    frames: int = 1024  # rows of 10 ms; shorter windows are padded
    mean: float = -4.2677393  # AudioSet's; one number for the data set, never per clip
    std: float = 4.5689974
    shift: bool = (
        False  # training: roll the waveform by a random amount (parts it from the picture)
    )
    gain: bool = False  # training: multiply the waveform by Beta(10, 10) + 0.5
    # sound shorter than the window: repeated, or followed by zeros in the spectrogram, as AudioMAE,
    # CAV-MAE and AST have it
    short: Literal["repeat", "pad"] = "repeat"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one clip: [1, T, F]."""
        return (1, self.frames, self.bins)

    def __post_init__(self) -> None:
        _positive(self, "sample_rate", "bins", "frames", "std")


@dataclass(frozen=True)
class FramesConfig:
    """Pictures at uniform times of the window: float32 [B, 3, frames, size, size].

    Frame k of K is the picture shown at start + k * seconds / K; RGB / 255, (x - mean) / std.
    """

    type: Literal["frames"] = "frames"
    frames: int = 8  # pictures per window
    size: int = 224  # pixels, square
    # part of the window that the pictures cover: anywhere in training, the middle in evaluation;
    # null: all of it, in step with the sound
    seconds: float | None = None
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    # training: random short side in [low, high] and a random crop, e.g. [256, 320]; null: short
    # side = size and the centre crop, which evaluation always uses
    short_side: list[int] | None = None
    flip: float = 0.0  # training: probability of a horizontal flip

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one clip: [3, T, H, W]."""
        return (3, self.frames, self.size, self.size)

    def times(self, window: float, length: float, draw: float = 0.5) -> np.ndarray:
        """When the pictures of a window are shown, s from its start, [frames].

        window: s. length: s of it that the clip fills; what lies behind begins anew. draw: where in
        it pictures that cover only a part of it lie, from 0, at its start, to 1, at its end.
        """
        seconds = window if self.seconds is None else self.seconds
        times: np.ndarray = np.arange(self.frames) * (seconds / self.frames)
        return (times + max(length - seconds, 0.0) * draw) % length

    def __post_init__(self) -> None:
        _positive(self, "frames", "size")
        if self.seconds is not None:
            _positive(self, "seconds")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need three numbers each (R, G, B), std above 0")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is a probability, found {self.flip}")
        if self.short_side is not None:
            if (
                len(self.short_side) != 2
                or not self.size <= self.short_side[0] <= self.short_side[1]
            ):
                raise ValueError(
                    f"short_side needs [low, high] with size ({self.size}) <= low <= high, "
                    f"found {self.short_side}"
                )


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
        _positive(self, "size", "rate", "std")
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
        _positive(self, "sample_rate", "rate")
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
        _positive(self, "budget", "shortest", "buckets")
        if self.longest < self.shortest:
            raise ValueError(
                f"longest ({self.longest:g} s) is less than shortest ({self.shortest:g} s)"
            )


FixedRecipe = FbankConfig | FramesConfig  # of a window
Recipe = FixedRecipe | LipsConfig | WaveConfig | TextConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the clips come from, and what each graph input is made of."""

    source: str = "corpus:scenes"  # corpus:NAME (built in), a folder of media, or a manifest.csv
    cache: str | None = (
        None  # built-in corpora and folder scans; null: $AVSSL_CACHE or ~/.cache/avssl
    )
    window: float = 2.0  # seconds, the same stretch of time for sound and picture
    batch: int = 64  # clips per step, all ranks together
    lengths: LengthsConfig | None = None  # in place of window and batch: lips, wave and text
    train_share: float = 1.0  # of the train split, chosen by path: the same clips for any seed
    workers: int = 1  # loader processes per rank; 0 reads in the training process
    prefetch: int = 2  # batches that each worker reads ahead
    time_limit: float = 20.0  # seconds for one clip, then it is given up and replaced
    max_bad_share: float = 0.2  # more unreadable clips than this stop the run
    inputs: dict[str, Recipe] = field(default_factory=dict)  # input -> recipe

    def __post_init__(self) -> None:
        _positive(self, "window", "batch", "prefetch", "time_limit")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, found {self.workers}")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is a share, 0 to 1, found {self.max_bad_share}")
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share is a share above 0, up to 1, found {self.train_share}")
        self._check_lengths()
        for name, recipe in self.inputs.items():
            if isinstance(recipe, FbankConfig) and self.window < 0.025:
                raise ValueError(
                    f"window is {self.window:g} s, shorter than 25 ms, one frame of {name}"
                )
            seconds = recipe.seconds if isinstance(recipe, FramesConfig) else None
            if seconds is not None and seconds > self.window:
                raise ValueError(
                    f"inputs.{name}.seconds is {seconds:g}, longer than the window of "
                    f"{self.window:g} s"
                )

    def _check_lengths(self) -> None:
        """Raises ValueError for inputs that do not go together, or without `lengths`."""
        for name, recipe in self.inputs.items():
            if isinstance(recipe, FbankConfig | FramesConfig) == (self.lengths is not None):
                raise ValueError(
                    f"inputs.{name} is of type {recipe.type}, which "
                    + (
                        "needs a fixed window: leave lengths out, or take lips, wave and text"
                        if self.lengths is not None
                        else "has the length of the clip: give lengths"
                    )
                )
        if self.lengths is None or not self.inputs:
            return
        if "frames" in self.inputs:
            raise ValueError("inputs.frames: with lengths, frames is in every batch already")
        if sum(isinstance(item, TextConfig) for item in self.inputs.values()) > 1:
            raise ValueError("inputs has more than one of type text: a clip has one transcript")
        rates = {f"{name} {item.rate}" for name, item in self._timed()}
        if not rates:
            raise ValueError("inputs needs one of type lips or wave: text has no length")
        if len({item.rate for _, item in self._timed()}) > 1:
            raise ValueError(f"inputs must agree on rate, found {', '.join(sorted(rates))}")

    def _timed(self) -> list[tuple[str, LipsConfig | WaveConfig]]:
        return [
            (name, item)
            for name, item in self.inputs.items()
            if isinstance(item, LipsConfig | WaveConfig)
        ]

    @property
    def fixed_inputs(self) -> dict[str, FixedRecipe]:
        """The inputs where clips are windows.

        Raises UserError where they keep their own length.
        """
        if self.lengths is not None:
            raise UserError(
                "clips keep their own length (data.lengths), and this needs windows of a fixed one"
            )
        return {
            name: item
            for name, item in self.inputs.items()
            if isinstance(item, FbankConfig | FramesConfig)
        }

    @property
    def rate(self) -> int:
        """Frames per second, with `lengths`."""
        return self._timed()[0][1].rate

    @property
    def reach(self) -> float:
        """Seconds of a clip that are read at most."""
        return self.window if self.lengths is None else self.lengths.longest

    @property
    def needs_audio(self) -> bool:
        """Whether an input is made from the sound."""
        return any(isinstance(item, FbankConfig | WaveConfig) for item in self.inputs.values())

    @property
    def needs_video(self) -> bool:
        """Whether an input is made from the picture."""
        return any(isinstance(item, FramesConfig | LipsConfig) for item in self.inputs.values())


def _positive(item: object, *names: str) -> None:
    for name in names:
        value = getattr(item, name)
        if not value > 0:
            raise ValueError(f"{name} must be above 0, found {value}")
