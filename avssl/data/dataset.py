"""Clips as training examples: one window of time, its sound and pictures, made into graph inputs.

Letters: B batch, N samples or clips, T pictures, frames or filterbank rows, F mel bins, H W height
and width, K samples of a frame, U units of a transcript, V real frames of a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from avssl.data.batches import finish_inputs, stack_inputs
from avssl.data.buckets import Item, Padding
from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.length_config import TextConfig
from avssl.data.lengths import read_stretch
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import MediaError, read_clip_sound, read_pictures, scaled_size
from avssl.data.timed import TimedCaller
from avssl.data.usable import Check, Misfit, by_reason, extent, in_share, nothing_usable
from avssl.data.views import View, Views
from avssl.errors import UserError

_REPLACEMENTS = 8  # clips tried in place of an unreadable one


@dataclass
class Sample:
    """One clip as read: the raw inputs, and what went wrong on the way."""

    # waveform float32 [N] (shorter if padded later) or [T, K], pictures uint8 [3, T, H, W] or
    # [1, T, H, W], transcript int64 [U]
    inputs: dict[str, np.ndarray]
    clip: int  # row in the manifest
    label: int  # -1: none
    replaced: bool = False
    failures: list[tuple[str, str]] = field(default_factory=list)  # (path, reason)
    padding: Padding = (0, 0)  # frames and units of the longest clips of the global batch


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
        views: of each clip, one after the other; for a test, which replaces none.

    Attributes:
        clips: the clips that serve, in manifest order. rows: their rows in the manifest.
        left_out: (path, reason) of the split's other clips. unshared: how many more of them are
            not used, for `data.train_share` is below 1.
        sizes: with `data.lengths`, frames and units of each clip, int64 [N, 2].
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
        views: Views = Views(),  # noqa: B008 (it cannot be changed)
    ) -> None:
        self.root = manifest.root
        self.config = config
        self.split = split
        self.seed = seed
        self.replace = replace
        self.views = views
        self.training = split == "train" if training is None else training
        self.classes = manifest.classes()
        self.clips: list[Clip] = []
        self.rows: list[int] = []
        self.left_out: list[tuple[str, str]] = []
        self.unshared = 0
        sizes: list[tuple[int, int]] = []
        self._units: list[np.ndarray] = []  # of the transcript of each clip, [U]
        check = Check(config)
        for row, clip in enumerate(manifest.clips):
            if split is not None and clip.split != split:
                continue
            if split == "train" and not in_share(clip.path, config.train_share):
                self.unshared += 1
                continue
            try:
                frames, units = check(clip)
            except Misfit as reason:
                self.left_out.append((clip.path, str(reason)))
                continue
            self.clips.append(clip)
            self.rows.append(row)
            sizes.append((frames, len(units)))
            self._units.append(np.array(units, np.int64))
        if not self.clips and self.unshared and not self.left_out:
            raise UserError(
                f"data.train_share = {config.train_share:g} takes none of the {self.unshared} "
                "clips to train on: raise it"
            )
        if not self.clips:
            raise UserError(nothing_usable(manifest, split, self.left_out))
        self.sizes = None if config.lengths is None else np.array(sizes, np.int64)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = [numbers.get(clip.label, -1) for clip in self.clips]
        self._timed = TimedCaller()

    def __len__(self) -> int:
        return len(self.clips) * len(self.views)

    @property
    def counts(self) -> str:
        """How many clips of the split are used, and why the others are not."""
        parts = [f"{len(self.clips)} used"]
        if self.unshared:
            share = self.config.train_share
            parts.append(f"{self.unshared} not in data.train_share = {share:g}")
        if self.left_out:
            parts.append(f"{len(self.left_out)} left out: {by_reason(self.left_out)}")
        return ", ".join(parts)

    def describe(self, *, shown: int = 10) -> str:
        """One line for the clips that serve, and one for each of the first that do not."""
        name = self.split or "all splits"
        lines = [f"{name}: {len(self.clips)} clips serve, {len(self.left_out)} are left out"]
        if self.unshared:
            share = self.config.train_share
            lines[0] += f", {self.unshared} are not in data.train_share = {share:g}"
        lines += [f"  {path}: {reason}" for path, reason in self.left_out[:shown]]
        if len(self.left_out) > shown:
            lines.append(f"  and {len(self.left_out) - shown} more")
        return "\n".join(lines)

    def __getitem__(self, item: Item) -> Sample:
        """The example `index` of `epoch`; an unreadable clip is replaced by another one. With V
        views, view v of clip n is at n V + v.

        That is no longer than the third entry of `item` says, what the clips of its batch are
        padded to, and no shorter than the fourth; the last replacements tried may be shorter.

        Returns:
            A sample; one without inputs if it is not replaced, or the replacements were unreadable.
        """
        epoch, place = item[:2]
        index, view = divmod(place, len(self.views))
        padding = item[2] if len(item) > 2 else (0, 0)
        shortest = item[3] if len(item) > 3 else 0
        failures: list[tuple[str, str]] = []
        for attempt in range(1 + _REPLACEMENTS * self.replace):
            random = np.random.default_rng([self.seed, epoch, index, attempt])
            chosen = (
                index
                if attempt == 0
                else self._another(
                    random, padding, shortest if attempt <= _REPLACEMENTS // 2 else 0
                )
            )
            try:
                inputs = self._timed(
                    self._read, chosen, random, self.views[view], limit=self.config.time_limit
                )
            except (MediaError, TimeoutError) as error:
                failures.append((self.clips[chosen].path, str(error)))
                continue
            except Exception as error:  # decoders raise what they like; no clip may end a run
                reason = f"{type(error).__name__}: {error}"
                failures.append((self.clips[chosen].path, reason))
                continue
            row, label = self.rows[chosen], self.labels[chosen]
            return Sample(inputs, row, label, attempt > 0, failures, padding)
        return Sample({}, self.rows[index], self.labels[index], True, failures, padding)

    def _another(self, random: np.random.Generator, padding: Padding, shortest: int) -> int:
        """A clip that may stand in for one of a batch that is padded so far."""
        if self.sizes is None or padding == (0, 0):
            return int(random.integers(len(self.clips)))
        fits = (self.sizes <= padding).all(1) & (self.sizes[:, 0] >= shortest)  # [N]
        return int(random.choice(np.flatnonzero(fits)))

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Make a batch: filterbanks float32 [B, 1, T, F], pictures still uint8 [B, 3, T, H, W].

        With `data.lengths`: lips still uint8 [B, 1, T, H, W], waves float32 [B, T, K], text int64
        [B, U], and `frames` int64 [V], where the real frames stand in [B * T], flattened.
        """
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
        inputs = [sample.inputs for sample in samples]
        return batch | stack_inputs(inputs, self.config.inputs, padding=samples[0].padding)

    def finish(self, batch: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
        """Move a collated batch to the device and normalise its pictures there, to float32."""
        return finish_inputs(batch, self.config.inputs, device)

    @property
    def _moving(self) -> bool:
        """Whether a window lies elsewhere in each epoch."""
        return self.training and self.config.window_position == "random"

    def _read(self, index: int, random: np.random.Generator, view: View) -> dict[str, np.ndarray]:
        clip = self.clips[index]
        window = self.config.reach
        begin, length = extent(clip, video=self.config.needs_video)
        if self.config.lengths is not None:
            own = random if self.training else None
            raw = read_stretch(
                self.root, clip, self.config, begin=begin, seconds=length, random=own
            )
            texts = [n for n, item in self.config.inputs.items() if isinstance(item, TextConfig)]
            return raw | dict.fromkeys(texts, self._units[index])
        spare = length - window
        draw = float(random.random()) if self._moving else view.place
        start = begin + max(spare, 0.0) * draw
        # a clip shorter than the window is repeated: sound and pictures with the same period
        period = window if spare >= 0 else length
        inputs: dict[str, np.ndarray] = {}
        for name, recipe in self.config.inputs.items():
            if isinstance(recipe, FbankConfig):
                inputs[name] = self._sound(clip, recipe, start, period, random)
            elif isinstance(recipe, FramesConfig):
                inputs[name] = self._pictures(clip, recipe, start, period, random, view)
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
        view: View,
    ) -> np.ndarray:
        draw: float | np.ndarray = view.place
        if recipe.sampling == "segments":
            draw = random.random(recipe.frames) if self._moving else view.offset
        elif self._moving and (recipe.seconds is not None or recipe.sampling == "dense"):
            draw = float(random.random())
        assert clip.fps is not None
        times = start + recipe.times(self.config.window, period, draw, fps=clip.fps)
        # one of the sides has nothing to spare in evaluation
        short_side, across, down, flip = recipe.size, view.crop, view.crop, False
        if self.training and recipe.short_side is not None:
            low, high = recipe.short_side
            short_side = int(random.integers(low, high + 1))
            across, down = random.random(2)
        if self.training and recipe.flip:
            flip = bool(random.random() < recipe.flip)
        path = self.root / clip.path
        if self.training and (recipe.area is not None or recipe.scales is not None):
            pictures = _cropped(path, clip, times, recipe, random)  # [T, S, S, 3]
        else:
            pictures = read_pictures(path, clip, times, short_side=short_side)  # [T, H, W, 3]
            top = round((pictures.shape[1] - recipe.size) * down)
            left = round((pictures.shape[2] - recipe.size) * across)
            pictures = pictures[:, top : top + recipe.size, left : left + recipe.size]
        if self.training and recipe.colours:
            from avssl.data.augment import coloured

            pictures = coloured(pictures, recipe, random)
        if self.training and recipe.randaugment is not None:
            from avssl.data.augment import randaugmented

            pictures = randaugmented(pictures, recipe, random)
        if flip:
            pictures = pictures[:, :, ::-1]
        return np.ascontiguousarray(pictures.transpose(3, 0, 1, 2))  # [3, T, H, W]


def _cropped(
    path: Path, clip: Clip, times: np.ndarray, recipe: FramesConfig, random: np.random.Generator
) -> np.ndarray:
    """A random part of the pictures, uint8 [T, S, S, 3], read as large as that needs."""
    from avssl.data.augment import draw_box, resized

    width, height = scaled_size(clip, None)
    box = draw_box((height, width), recipe, random)
    scale = min(1.0, recipe.size / min(box[2:]))  # the file is not read larger than it is
    short_side = math.ceil(min(width, height) * scale)
    pictures = read_pictures(path, clip, times, short_side=short_side)
    down, across = pictures.shape[1] / height, pictures.shape[2] / width
    top, left = round(box[0] * down), round(box[1] * across)
    bottom, right = top + max(1, round(box[2] * down)), left + max(1, round(box[3] * across))
    return resized(pictures[:, top:bottom, left:right], recipe.size)
