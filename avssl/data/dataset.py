"""Clips as training examples: one window of time, its sound and pictures, made into graph inputs.

Letters: B batch, N samples, T pictures or filterbank rows, F mel bins, H W height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from avssl.data.batches import finish_inputs, stack_inputs
from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import MediaError, read_clip_sound, read_pictures
from avssl.data.timed import TimedCaller
from avssl.errors import UserError

_REPLACEMENTS = 8  # clips tried in place of an unreadable one


@dataclass
class Sample:
    """One clip as read: the raw inputs, and what went wrong on the way."""

    inputs: dict[
        str, np.ndarray
    ]  # waveform float32 [N] (shorter if padded later), or pictures uint8 [3, T, H, W]
    clip: int  # row in the manifest
    label: int  # -1: none
    replaced: bool = False
    failures: list[tuple[str, str]] = field(default_factory=list)  # (path, reason)


class ClipDataset(Dataset[Sample]):
    """The clips of one split, or of all, that have every stream the configured inputs read.

    Everything random about an example follows from (seed, epoch, index): it is the same in any
    worker, in any number of workers, and after a resume.

    Args:
        manifest: scanned clips (`avssl.data.source.open_source`).
        config: the `data` section.
        split: train, val or test; None for every clip.
        seed: of the random draws.
        training: random window and augmentation; None: only in the train split.
        replace: another clip stands in for an unreadable one; without, its row is left out of the
            batch, which may be empty.

    Attributes:
        clips: the clips that serve, in manifest order. rows: their rows in the manifest.
        left_out: (path, reason) of the split's other clips.
        classes: label names in the order of their numbers.

    Raises:
        UserError: no clip serves.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: DataConfig,
        *,
        split: str | None = "train",
        seed: int = 0,
        training: bool | None = None,
        replace: bool = True,
    ) -> None:
        self.root = manifest.root
        self.config = config
        self.split = split
        self.seed = seed
        self.replace = replace
        self.training = split == "train" if training is None else training
        self.classes = manifest.classes()
        self.clips: list[Clip] = []
        self.rows: list[int] = []
        self.left_out: list[tuple[str, str]] = []
        for row, clip in enumerate(manifest.clips):
            if split is not None and clip.split != split:
                continue
            reason = unusable(clip, audio=config.needs_audio, video=config.needs_video)
            if reason:
                self.left_out.append((clip.path, reason))
            else:
                self.clips.append(clip)
                self.rows.append(row)
        if not self.clips:
            raise UserError(_nothing(manifest, split, self.left_out))
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = [numbers.get(clip.label, -1) for clip in self.clips]
        self._timed = TimedCaller()

    def __len__(self) -> int:
        return len(self.clips)

    def describe(self, *, shown: int = 10) -> str:
        """One line for the clips that serve, and one for each of the first that do not."""
        name = self.split or "all splits"
        lines = [f"{name}: {len(self.clips)} clips serve, {len(self.left_out)} are left out"]
        lines += [f"  {path}: {reason}" for path, reason in self.left_out[:shown]]
        if len(self.left_out) > shown:
            lines.append(f"  and {len(self.left_out) - shown} more")
        return "\n".join(lines)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """The example `index` of `epoch`; an unreadable clip is replaced by another one.

        Returns:
            A sample; one without inputs if it is not replaced, or the replacements were unreadable.
        """
        epoch, index = item
        failures: list[tuple[str, str]] = []
        for attempt in range(1 + _REPLACEMENTS * self.replace):
            random = np.random.default_rng([self.seed, epoch, index, attempt])
            chosen = index if attempt == 0 else int(random.integers(len(self.clips)))
            try:
                inputs = self._timed(self._read, chosen, random, limit=self.config.time_limit)
            except (MediaError, TimeoutError) as error:
                failures.append((self.clips[chosen].path, str(error)))
                continue
            except Exception as error:  # decoders raise what they like; no clip may end a run
                reason = f"{type(error).__name__}: {error}"
                failures.append((self.clips[chosen].path, reason))
                continue
            return Sample(inputs, self.rows[chosen], self.labels[chosen], attempt > 0, failures)
        return Sample({}, self.rows[index], self.labels[index], True, failures)

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Make a batch: filterbanks float32 [B, 1, T, F], pictures still uint8 [B, 3, T, H, W]."""
        failures = [failure for sample in samples for failure in sample.failures]
        if not self.replace:
            samples = [sample for sample in samples if sample.inputs]
        # [B] each; as arrays, for every tensor that leaves a worker costs the receiver some ms
        batch: dict[str, Any] = {
            "label": np.array([sample.label for sample in samples], np.int64),
            "clip": np.array([sample.clip for sample in samples], np.int64),
            "replaced": np.array([sample.replaced for sample in samples], np.int64),
            "failures": failures,
        }
        if not samples or not all(sample.inputs for sample in samples):
            return batch  # where clips are replaced, the loader stops the run
        return batch | stack_inputs([sample.inputs for sample in samples], self.config.inputs)

    def finish(self, batch: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
        """Move a collated batch to the device and normalise its pictures there, to float32."""
        return finish_inputs(batch, self.config.inputs, device)

    def _read(self, index: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        clip = self.clips[index]
        window = self.config.window
        begin, length = extent(clip, video=self.config.needs_video)
        spare = length - window
        draw = float(random.random()) if self.training else 0.5
        start = begin + max(spare, 0.0) * draw
        # a clip shorter than the window is repeated: sound and pictures with the same period
        period = window if spare >= 0 else length
        inputs: dict[str, np.ndarray] = {}
        for name, recipe in self.config.inputs.items():
            if isinstance(recipe, FbankConfig):
                inputs[name] = self._sound(clip, recipe, start, period, random)
            else:
                inputs[name] = self._pictures(clip, recipe, start, period, random)
        return inputs

    def _sound(
        self,
        clip: Clip,
        recipe: FbankConfig,
        start: float,
        period: float,
        random: np.random.Generator,
    ) -> np.ndarray:
        sound = read_clip_sound(
            self.root / clip.sound_path,
            clip,
            start=start,
            seconds=period,
            sample_rate=recipe.sample_rate,
        )
        count = round(self.config.window * recipe.sample_rate)
        if len(sound) != count and recipe.short == "repeat":
            sound = np.resize(sound, count)
        if self.training and recipe.shift:
            sound = np.roll(sound, int(random.integers(len(sound))))
        if self.training and recipe.gain:
            sound = sound * np.float32(random.beta(10, 10) + 0.5)
        return sound  # [N]

    def _pictures(
        self,
        clip: Clip,
        recipe: FramesConfig,
        start: float,
        period: float,
        random: np.random.Generator,
    ) -> np.ndarray:
        draw = 0.5
        if recipe.seconds is not None and self.training:
            draw = float(random.random())
        times = start + recipe.times(self.config.window, period, draw)
        short_side, across, down, flip = recipe.size, 0.5, 0.5, False
        if self.training and recipe.short_side is not None:
            low, high = recipe.short_side
            short_side = int(random.integers(low, high + 1))
            across, down = random.random(2)
        if self.training and recipe.flip:
            flip = bool(random.random() < recipe.flip)
        path = self.root / clip.path
        pictures = read_pictures(path, clip, times, short_side=short_side)  # [T, H, W, 3]
        top = round((pictures.shape[1] - recipe.size) * down)
        left = round((pictures.shape[2] - recipe.size) * across)
        pictures = pictures[:, top : top + recipe.size, left : left + recipe.size]
        if flip:
            pictures = pictures[:, :, ::-1]
        return np.ascontiguousarray(pictures.transpose(3, 0, 1, 2))  # [3, T, H, W]


def extent(clip: Clip, *, video: bool) -> tuple[float, float]:
    """First second and length of what a clip offers; of its sound alone if no picture is read."""
    end = clip.duration or 0.0
    if clip.has_video and not video and clip.has_audio:
        end = max(0.0, clip.sound_offset + (clip.sound_duration or 0.0))
    if clip.end is not None:
        end = min(end, clip.end)
    start = clip.start or 0.0
    return start, end - start


def unusable(clip: Clip, *, audio: bool, video: bool) -> str:
    """Why a clip cannot serve inputs made from these streams; "" if it can."""
    if not clip.scanned:
        return "not scanned"
    if video and not clip.has_video:
        return clip.reason or "has no picture"
    if audio and not clip.has_audio:
        return clip.reason or "has no sound"
    if not extent(clip, video=video)[1] > 0:
        return f"starts at {clip.start} s, after its end"
    return ""


def _nothing(manifest: Manifest, split: str | None, left_out: list[tuple[str, str]]) -> str:
    if left_out:
        path, reason = left_out[0]
        of = f" of the split '{split}'" if split else ""
        return (
            f"none of the {len(left_out)} clips{of} in {manifest.root} can be used; the first, "
            f"{path}: {reason}"
        )
    counts: dict[str, int] = {}
    for clip in manifest.clips:
        counts[clip.split or "(none)"] = counts.get(clip.split or "(none)", 0) + 1
    known = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    if manifest.split_by_path:
        return (
            f"{manifest.root} has no clip in the split '{split}' (it has {known}), for no split is "
            "given and so the paths decide: add more clips, or write a manifest.csv with a column "
            "'split'"
        )
    return (
        f"the manifest in {manifest.root} has no clip in the split '{split}' (it has {known}): "
        "fill its column 'split', or leave the whole column empty for a split by path"
    )
