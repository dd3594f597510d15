"""The `data` section of an experiment: where clips come from, what inputs are made of."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from avssl.data.length_config import (
    REAL,
    LengthsConfig,
    LipsConfig,
    TextConfig,
    WaveConfig,
    positive,
)
from avssl.errors import UserError

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

    @property
    def draws(self) -> dict[str, str]:
        """What makes a clip's input another one in each epoch of training, and the value that does
        not."""
        return {name: "false" for name in ("shift", "gain") if getattr(self, name)}

    def __post_init__(self) -> None:
        positive(self, "sample_rate", "bins", "frames", "std")


@dataclass(frozen=True)
class RandAugmentConfig:
    """RandAugment (arXiv 1909.13719) as torchvision has it, alike in all pictures of a clip.

    Recipes state timm's numbers, "m7 n4 std 0.5", which are taken over; the scale of the magnitude
    is timm's, 0 to 10. timm leaves out each operation with probability 0.5, so that half as many
    are done, draws the magnitude anew for each of them, and has Invert and SolarizeAdd where
    torchvision has Identity.
    """

    operations: int = 2  # n
    magnitude: float = 9.0  # m, 0 to 10
    std: float = 0.0  # of the magnitude, drawn for each clip

    def __post_init__(self) -> None:
        positive(self, "operations")
        if not 0 <= self.magnitude <= 10:
            raise ValueError(f"magnitude must be from 0 to 10, found {self.magnitude}")
        if self.std < 0:
            raise ValueError(f"std must be at least 0, found {self.std}")


@dataclass(frozen=True)
class FramesConfig:
    """Pictures of a clip: float32 [B, 3, frames, size, size], RGB / 255, (x - mean) / std.

    Frame k of K is the picture shown at start + k * seconds / K of the window, unless `sampling`
    says otherwise.
    """

    type: Literal["frames"] = "frames"
    frames: int = 8  # pictures per window
    size: int = 224  # pixels, square
    # part of the window that the pictures cover: anywhere in training, the middle in evaluation;
    # null: all of it, in step with the sound
    seconds: float | None = None
    # where the pictures come from: the window, in step with the sound; or, without regard to it,
    # pictures of the file `stride` apart, from anywhere in the clip (dense; the middle in
    # evaluation); or one from each of `frames` equal parts of the clip (segments, TSN, arXiv
    # 1608.00859; the middle of each in evaluation). A clip too short for dense begins anew
    sampling: Literal["window", "dense", "segments"] = "window"
    stride: int | None = None  # pictures of the file, with dense
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    # training: random short side in [low, high] and a random crop, e.g. [256, 320]; null: short
    # side = size and the centre crop, which evaluation always uses
    short_side: list[int] | None = None
    # training: a crop of this share of the picture's area, [low, high], and of a width over height
    # between `aspect`, resized to `size` (Inception's crop); null: none
    area: list[float] | None = None
    aspect: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    # training: multi-scale crops (TSN, VideoMAE): sides of these shares of the short side, at most
    # one step apart, at one of 13 places; null: none
    scales: list[float] | None = None
    flip: float = 0.0  # training: probability of a horizontal flip
    # training, alike in all pictures of a clip, as MoCo v3: brightness, contrast, saturation and
    # hue at most, with probability jitter_share; grey; blur with sigma 0.1 to 2; solarise
    jitter: list[float] | None = None
    jitter_share: float = 0.8
    grey: float = 0.0
    blur: float = 0.0
    solarise: float = 0.0
    randaugment: RandAugmentConfig | None = None  # training; for fine-tuning

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one clip: [3, T, H, W]."""
        return (3, self.frames, self.size, self.size)

    @property
    def colours(self) -> bool:
        """Whether training changes colours."""
        return self.jitter is not None or max(self.grey, self.blur, self.solarise) > 0

    @property
    def draws(self) -> dict[str, str]:
        """What makes a clip's input another one in each epoch of training, and the value that does
        not."""
        off = dict.fromkeys(("short_side", "area", "scales", "jitter", "randaugment"), "null")
        off |= dict.fromkeys(("flip", "grey", "blur", "solarise"), "0")
        return {name: value for name, value in off.items() if getattr(self, name)}

    @property
    def whole_clip(self) -> bool:
        """Whether the pictures come from the whole clip and not from the window."""
        return self.sampling != "window"

    def times(
        self, window: float, length: float, draw: float | np.ndarray = 0.5, *, fps: float
    ) -> np.ndarray:
        """When the pictures are shown, s from the start of the window or the clip, [frames].

        window: s. length: s of it that the clip fills, or of the whole clip; what lies behind
        begins anew. draw: where in it pictures that cover only a part of it lie, from 0, at its
        start, to 1, at its end; with segments in each part, a number or [frames]. fps: of the file.
        """
        number = np.arange(self.frames)
        if self.sampling == "segments":
            return (number + draw) * (length / self.frames)
        seconds = window if self.seconds is None else self.seconds
        if self.stride is not None:
            seconds = self.frames * self.stride / fps
        times: np.ndarray = number * (seconds / self.frames)
        return (times + max(length - seconds, 0.0) * draw) % length

    def __post_init__(self) -> None:
        positive(self, "frames", "size")
        if self.seconds is not None:
            positive(self, "seconds")
        if self.stride is not None:
            positive(self, "stride")
        if (self.sampling == "dense") != (self.stride is not None):
            raise ValueError(
                "stride belongs to sampling: dense, which needs it, found stride: "
                f"{self.stride or 'null'} and sampling: {self.sampling}"
            )
        if self.whole_clip and self.seconds is not None:
            raise ValueError(f"seconds is a part of the window, but sampling is {self.sampling}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need three numbers each (R, G, B), std above 0")
        for name in ("flip", "jitter_share", "grey", "blur", "solarise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, found {getattr(self, name)}")
        if sum(item is not None for item in (self.short_side, self.area, self.scales)) > 1:
            raise ValueError("short_side, area and scales are three ways to crop: give one")
        for name, most in (("area", 1.0), ("aspect", np.inf)):
            pair = getattr(self, name)
            if pair is not None and not (len(pair) == 2 and 0 < pair[0] <= pair[1] <= most):
                raise ValueError(f"{name} needs [low, high] above 0, found {pair}")
        if self.scales is not None and not all(0 < scale <= 1 for scale in self.scales or [0]):
            raise ValueError(f"scales are shares of the short side, found {self.scales}")
        if self.jitter is not None and not (
            len(self.jitter) == 4 and min(self.jitter) >= 0 and self.jitter[3] <= 0.5
        ):
            raise ValueError(
                "jitter needs brightness, contrast, saturation and hue (at most 0.5), found "
                f"{self.jitter}"
            )
        if self.short_side is not None:
            if (
                len(self.short_side) != 2
                or not self.size <= self.short_side[0] <= self.short_side[1]
            ):
                raise ValueError(
                    f"short_side needs [low, high] with size ({self.size}) <= low <= high, "
                    f"found {self.short_side}"
                )


FixedRecipe = FbankConfig | FramesConfig  # of a window
Recipe = FixedRecipe | LipsConfig | WaveConfig | TextConfig


def _whole_clip(recipe: Recipe) -> bool:
    return isinstance(recipe, FramesConfig) and recipe.whole_clip


@dataclass(frozen=True)
class DataConfig:
    """Where the clips come from, and what each graph input is made of."""

    # corpus:NAME (built in), a folder of media, pictures or tar shards, shards such as
    # a-{000..010}.tar, or a manifest.csv
    source: str = "corpus:scenes"
    cache: str | None = (
        None  # built-in corpora and folder scans; null: $AVSSL_CACHE or ~/.cache/avssl
    )
    window: float = 2.0  # seconds, the same stretch of time for sound and picture
    # where a window lies in a longer clip, and pictures that cover a part of it in the window, in
    # training; evaluation takes the middle
    window_position: Literal["random", "middle"] = "random"
    batch: int = 64  # clips per step, all ranks together
    lengths: LengthsConfig | None = None  # in place of window and batch: lips, wave and text
    train_share: float = 1.0  # of the train split, chosen by path: the same clips for any seed
    # of the train split: column -> the value that its clips have there, such as {set: trainval}
    only: dict[str, str | int] | None = None
    label: str | None = None  # column of the manifest with the classes; null: label
    workers: int = 1  # loader processes per rank; 0 reads in the training process
    prefetch: int = 2  # batches that each worker reads ahead
    time_limit: float = 20.0  # seconds for one clip, then it is given up and replaced
    max_bad_share: float = 0.2  # more unreadable clips than this stop the run
    inputs: dict[str, Recipe] = field(default_factory=dict)  # input -> recipe

    def __post_init__(self) -> None:
        positive(self, "window", "batch", "prefetch", "time_limit")
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

        whole = [name for name, item in self.inputs.items() if _whole_clip(item)]
        if whole and len(whole) < len(self.inputs):
            other = next(name for name in self.inputs if name not in whole)
            raise ValueError(
                f"inputs.{whole[0]} takes pictures from the whole clip (sampling) and "
                f"inputs.{other} from a window: that would not be the same stretch of time; give "
                "both the same sampling"
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
        if REAL in self.inputs:
            raise ValueError(f"inputs.{REAL}: with lengths, {REAL} is in every batch already")
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
        """Seconds of a clip that are read at most; infinite where pictures come from all of it."""
        if any(_whole_clip(item) for item in self.inputs.values()):
            return math.inf
        return self.window if self.lengths is None else self.lengths.longest

    @property
    def needs_audio(self) -> bool:
        """Whether an input is made from the sound."""
        return any(isinstance(item, FbankConfig | WaveConfig) for item in self.inputs.values())

    @property
    def needs_video(self) -> bool:
        """Whether an input is made from the picture."""
        return any(isinstance(item, FramesConfig | LipsConfig) for item in self.inputs.values())

    @property
    def needs_text(self) -> bool:
        """Whether an input is made from the transcript."""
        return any(isinstance(item, TextConfig) for item in self.inputs.values())
