"""The clips of a run: training batches from any step on, and each held-out clip once."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from avssl.data.dataset import ClipDataset
from avssl.data.loader import (
    Loader,
    make_buckets,
    make_eval_loader,
    make_loader,
    steps_per_epoch,
)
from avssl.data.manifest import SPLITS
from avssl.data.source import open_source
from avssl.data.usable import standing_still
from avssl.errors import UserError
from avssl.eval.sides import refuse_both_sides, rows_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from avssl.data.config import DataConfig
    from avssl.data.manifest import Manifest
    from avssl.train.parallel import World


@dataclass
class Clips:
    """The data of a run as its stages and probes ask for it."""

    config: DataConfig
    manifest: Manifest
    world: World
    splits: dict[tuple[str, bool], ClipDataset] = field(default_factory=dict)

    def require(self, splits: Iterable[str]) -> None:
        """Make sure that splits hold clips before training starts and not when they are read.

        Raises:
            UserError: one of them is empty.
        """
        for name in splits:
            try:
                dataset = self._dataset(name, training=False)
            except UserError as error:
                raise UserError(
                    f"{error}. The probes read it: probe.final=false does without the test split, "
                    "an empty probe.towers and probe.pictures=false without val."
                ) from None
            if self.world.main:
                print(dataset.describe(), flush=True)

    @property
    def steps_per_epoch(self) -> int:
        """Full global batches in the train split."""
        dataset = self._dataset("train", training=True)
        return steps_per_epoch(dataset, self.config, world=self.world.size)

    @property
    def clips_per_step(self) -> float:
        """Clips of a global batch; their mean over an epoch where batches have a budget."""
        dataset = self._dataset("train", training=True)
        if dataset.sizes is None:
            return self.config.batch
        buckets = make_buckets(dataset, self.config, world=self.world.size)
        return buckets.clips / buckets.steps

    @property
    def fingerprint(self) -> str:
        """Number of train clips, and a checksum of which they are: "2000 (5c1d9a0b)".

        Where transcripts are read, the checksum is of these, too.
        With `data.lengths` also of how many processes, where their batches, which they share
        evenly, are not those of one: "2000 (5c1d9a0b) in batches for 3 processes".
        """
        dataset, world = self._dataset("train", training=True), self.world.size
        text = self.config.needs_text
        rows = "\n".join(
            f"{clip.path} {clip.start} {clip.end}" + (f" {clip.text}" if text else "")
            for clip in dataset.clips
        )
        found = f"{len(dataset)} ({hashlib.sha256(rows.encode()).hexdigest()[:8]})"
        if dataset.sizes is None or world == 1:
            return found
        one, own = (make_buckets(dataset, self.config, world=size) for size in (1, world))
        alike = one.batch == own.batch and len(one.parts) == len(own.parts)
        return found if alike else f"{found} in batches for {world} processes"

    @cached_property
    def file_sizes(self) -> str:
        """Bytes of the train clips' files, and a checksum of each one's: "31,415 (5c1d9a0b)".

        Of a shard's member it is its own, and a wav beside a clip counts, too. Unlike times of
        change, sizes are those of any copy.
        """
        dataset = self._dataset("train", training=True)
        sizes = []
        for clip in dataset.clips:
            member = clip.tar_bytes
            sizes.append(_size(dataset.root / clip.path) if member is None else member)
            if clip.wav:
                sizes.append(_size(dataset.root / clip.wav))
        digest = hashlib.sha256(" ".join(map(str, sizes)).encode())
        return f"{sum(size or 0 for size in sizes):,} ({digest.hexdigest()[:8]})"

    @property
    def train_rows(self) -> list[int]:
        """Rows of the manifest that hold the train clips: `clip` of a batch is one of them."""
        return self._dataset("train", training=True).rows

    @property
    def description(self) -> dict[str, Any]:
        """What the card says of the data."""
        read = {split: dataset for (split, _), dataset in self.splits.items()}
        counts = {
            f"{split} clips": read[split].counts
            if split in read
            else f"{sum(clip.split == split for clip in self.manifest.clips)} listed, none read"
            for split in SPLITS
        }
        lengths = self.config.lengths
        return {
            "source": self.config.source,
            **counts,
            "window": f"{self.config.window:g} s"
            if lengths is None
            else f"{lengths.shortest:g} to {lengths.longest:g} s, as long as the clip",
            "classes": len(self.manifest.classes()),
        }

    def batches(self, *, seed: int, start: int, steps: int, inputs: Collection[str]) -> Loader:
        """This rank's share of the batches of steps `start` to `steps` - 1, with these inputs."""
        return make_loader(
            self._dataset("train", training=True),
            self.config,
            seed=seed,
            start_step=start,
            steps=steps,
            rank=self.world.rank,
            world=self.world.size,
            device=self.world.device,
            inputs=inputs,
        )

    def split(
        self, name: str, *, clips: int | None = None, inputs: Collection[str] | None = None
    ) -> Loader:
        """Each clip of a split once, without augmentation; all of them on every rank that asks."""
        dataset, device = self._dataset(name, training=False), self.world.device
        return make_eval_loader(dataset, self.config, clips=clips, device=device, inputs=inputs)

    def _dataset(self, split: str, *, training: bool) -> ClipDataset:
        key = (split, training)
        if key not in self.splits:
            self.splits[key] = ClipDataset(
                self.manifest, self.config, split=split, training=training
            )
        return self.splits[key]


def _size(path: Path) -> int | None:
    """Bytes of a file; None where there is none, which is for the loader to tell."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def open_clips(config: DataConfig, world: World) -> Clips:
    """Open the data of a run; rank 0 first, which may have to render or scan it.

    Raises:
        UserError: the source is not there, holds no clip, or has one both to train on and held out.
    """
    manifest = world.first(lambda: open_source(config)) or open_source(config)
    held_out = [*rows_in(manifest, "val"), *rows_in(manifest, "test")]
    refuse_both_sides(manifest, rows_in(manifest, "train"), held_out)
    clips = Clips(config, manifest, world)
    dataset = clips._dataset("train", training=True)
    if world.main:
        print(dataset.describe(), flush=True)  # which clips serve, and which do not and why
        for sentence in standing_still(config, dataset.clips):
            print(f"warning: {sentence}", file=sys.stderr, flush=True)
    return clips
