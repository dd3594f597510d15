"""The clips of a fine-tuning: which are trained on and which held out, targets, batches.

Letters: B batch, C classes, M rows of the manifest.
"""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from avssl.data.config import DataConfig
from avssl.data.dataset import ClipDataset
from avssl.data.labels import labels_of
from avssl.data.loader import Loader, make_eval_loader
from avssl.data.manifest import Manifest
from avssl.errors import UserError
from avssl.finetune.config import Finetune
from avssl.finetune.order import Order, balancing_weights, steps_per_epoch

ALL = "all"
TRAIN, HELD_OUT = "train", "test"


def folds_of(manifest: Manifest, config: Finetune) -> list[str | None]:
    """The folds to do one after the other; [None] where the split decides.

    Raises:
        UserError: no row has the column, or not this value.
    """
    if config.fold is None:
        return [None]
    found = {clip.extra.get(config.fold_column, "").strip() for clip in manifest.clips} - {""}
    if not found:
        columns = sorted({name for clip in manifest.clips for name in clip.extra})
        raise UserError(
            f"fold={config.fold}: the manifest in {manifest.root} has no column "
            f"{config.fold_column!r} (its own columns are {', '.join(columns) or 'none'}): name "
            "another one with fold_column, or leave fold out for the column 'split'"
        )
    odd = [
        text for text in found if not text.replace("-", "_").isidentifier() and not text.isdigit()
    ]
    if odd:
        raise UserError(
            f"the column {config.fold_column!r} holds {odd[0]!r}: a fold, which names a folder, "
            "is written with letters, digits, - and _"
        )
    known = sorted(found, key=lambda text: (not text.isdigit(), text.zfill(9)))
    if config.fold == ALL:
        return list(known)
    if str(config.fold) not in found:
        raise UserError(
            f"no row has {config.fold!r} in the column {config.fold_column!r}: found are "
            f"{', '.join(known)}"
        )
    return [str(config.fold)]


def with_fold(manifest: Manifest, config: Finetune, fold: str | None) -> Manifest:
    """The manifest with the splits "train" and "test" as this fold has them; other rows, and those
    without a label, have none. Rows keep their numbers."""
    clips = []
    for clip in manifest.clips:
        own = clip.extra.get(config.fold_column, "").strip()
        if not labels_of(clip):
            split = ""
        elif fold is not None:
            split = HELD_OUT if own == fold else TRAIN if own else ""
        else:
            split = {"train": TRAIN, config.held_out: HELD_OUT}.get(clip.split, "")
        clips.append(dataclasses.replace(clip, split=split))
    return Manifest(manifest.root, clips)


class Targets:
    """What the classifier is to say of each clip.

    Attributes:
        classes: names in the order of their numbers.
        table: float32 [M, C], 1 where a clip has the class; rows without a label are 0.

    Raises:
        UserError: there are no labels, or several a clip where one is asked for.
    """

    def __init__(self, manifest: Manifest, *, several: bool) -> None:
        labels = [labels_of(clip) for clip in manifest.clips]
        names = {name for row in labels for name in row}
        if len(names) < 2:
            raise UserError(
                f"the clips in {manifest.root} have {len(names)} different labels, and a "
                "classifier needs two: give a manifest with a column 'label'"
            )
        crowded = [row for row, own in enumerate(labels) if len(own) > 1]
        if crowded and not several:
            raise UserError(
                f"{len(crowded)} clips have several labels, the first is "
                f"{manifest.clips[crowded[0]].path}: set labels=multi"
            )
        digits = all(name.isascii() and name.isdigit() for name in names)
        self.classes = sorted(names, key=int) if digits else sorted(names)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.table = torch.zeros(len(labels), len(names))
        for row, own in enumerate(labels):
            self.table[row, [numbers[name] for name in own]] = 1


class Clips:
    """Batches of one fold: `label` is not used, `target` [B, C] is what the classifier learns.

    Args:
        manifest: as `with_fold` gives it.
        data: how clips are read.
        targets: of all rows.
        config: `train.balanced` and `train.epoch_clips` count.
        memory: clips read before, None to read them each time.
        device: where the batches go.
    """

    def __init__(
        self,
        manifest: Manifest,
        data: DataConfig,
        targets: Targets,
        config: Finetune,
        *,
        memory: Memory | None,
        device: torch.device,
    ) -> None:
        self.data, self.targets, self.config = data, targets, config
        self.memory, self.device = memory, device
        self.train = ClipDataset(manifest, data, split=TRAIN)
        self.held_out = ClipDataset(manifest, data, split=HELD_OUT, training=False)
        if memory is not None:
            self.train_rows = [row for row in self.train.rows if row in memory.places]
            self.test_rows = [row for row in self.held_out.rows if row in memory.places]
        else:
            self.train_rows, self.test_rows = self.train.rows, self.held_out.rows
        self.per_epoch = steps_per_epoch(
            len(self.train_rows),
            data.batch,
            config.train.epoch_clips,
            balanced=config.train.balanced,
        )

    @property
    def about(self) -> str:
        """Number and checksum of the clips trained on."""
        return f"{len(self.train_rows)} ({zlib.crc32(repr(self.train_rows).encode()):08x})"

    def batches(self, *, seed: int, start: int, steps: int) -> Iterator[dict[str, Any]]:
        """Training batches of the steps from `start` on."""
        weights = None
        if self.config.train.balanced:
            weights = balancing_weights(self.targets.table[self.train_rows])
        order = Order(
            len(self.train_rows),
            batch=self.data.batch,
            per_epoch=self.config.train.epoch_clips,
            seed=seed,
            weights=weights,
            steps=range(start, steps),
        )
        if self.memory is not None:
            for items in order:
                rows = [self.train_rows[index] for _, index in items]
                yield self._with_targets(self.memory.batch(rows))
            return
        dataset = copy.copy(self.train)
        dataset.seed = seed
        for batch in Loader(dataset, self.data, order, device=self.device):
            yield self._with_targets(batch)

    def test_batches(self) -> Iterator[dict[str, Any]]:
        """The held-out clips, each once; "replaced" marks those that could not be read."""
        if self.memory is not None:
            size = self.data.batch
            for first in range(0, len(self.test_rows), size):
                batch = self.memory.batch(self.test_rows[first : first + size])
                yield self._with_targets(batch)
            return
        for batch in make_eval_loader(self.held_out, self.data, device=self.device):
            yield self._with_targets(batch)

    def _with_targets(self, batch: dict[str, Any]) -> dict[str, Any]:
        target = self.targets.table[batch["clip"].cpu()].to(self.device)  # [B, C]
        return {**batch, "target": target}


class Memory:
    """Clips read once, as in a test, and kept on the device; unreadable ones are left out.

    Attributes:
        places: row of the manifest -> place in the tensors.
    """

    def __init__(self, manifest: Manifest, data: DataConfig, device: torch.device) -> None:
        dataset = ClipDataset(manifest, data, split=None, training=False)
        kept: dict[str, list[Tensor]] = {name: [] for name in data.inputs}
        rows: list[int] = []
        self.failures: list[tuple[str, str]] = []
        for batch in make_eval_loader(dataset, data, device=device):
            whole = batch["replaced"] == 0  # [B]
            rows += batch["clip"][whole].tolist()
            self.failures += batch["failures"]
            for name, parts in kept.items():
                parts.append(batch[name][whole])
        self.tensors = {name: torch.cat(parts) for name, parts in kept.items()}
        self.places = {row: place for place, row in enumerate(rows)}

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """The clips of these rows of the manifest."""
        places = [self.places[row] for row in rows]
        count = torch.zeros(len(rows), dtype=torch.int64)
        return {
            **{name: x[places] for name, x in self.tensors.items()},
            "clip": torch.tensor(rows),
            "replaced": count,
            "failures": [],
        }
