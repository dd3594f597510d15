"""Batches of a fine-tuning: of the clips trained on and of those held out, read or kept in memory.

Letters: B batch, C classes.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from avssl.data.config import DataConfig
from avssl.data.dataset import ClipDataset
from avssl.data.loader import Loader, make_eval_loader
from avssl.data.manifest import Manifest
from avssl.errors import UserError
from avssl.finetune.clips import HELD_OUT, TRAIN, Targets
from avssl.finetune.config import Finetune
from avssl.finetune.order import Order, balancing_weights, steps_per_epoch


class Clips:
    """Batches of one fold: `label` is not used, `target` [B, C] is what the classifier learns.

    Args:
        manifest: as `with_fold` gives it.
        data: how clips are read.
        targets: of all rows.
        config: `test`, and `train.balanced`, `epoch_clips` and `repeats` count.
        memory: clips read before, None to read them each time.
        device: where the batches go.

    Raises:
        UserError: a side has no clip that can be read, or an epoch no batch.
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
        self.held_out = ClipDataset(
            manifest, data, split=HELD_OUT, training=False, replace=False, views=config.test
        )
        if memory is not None:
            self.train_rows = [row for row in self.train.rows if row in memory.places]
            self.test_rows = [row for row in self.held_out.rows if row in memory.places]
        else:
            self.train_rows, self.test_rows = self.train.rows, self.held_out.rows
        self._must_be_readable()
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

    @property
    def unknown(self) -> int:
        """Held-out clips none of whose classes is that of a clip trained on."""
        table = self.targets.table
        known = table[self.train_rows].any(0)  # [C]
        return len(self.test_rows) - int(table[self.test_rows][:, known].any(1).sum())

    def batches(self, *, seed: int, start: int, steps: int) -> Iterator[dict[str, Any]]:
        """Training batches of the steps from `start` on."""
        weights = None
        if self.config.train.balanced:
            weights = balancing_weights(self.targets.table[self.train_rows])
        order = Order(
            len(self.train_rows),
            batch=self.data.batch,
            per_epoch=self.config.train.epoch_clips,
            repeats=self.config.train.repeats,
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

    def _must_be_readable(self) -> None:
        """Make sure before the training that there is something to train on and to measure."""
        if self.memory is not None:
            if not self.train_rows:
                raise nothing_read("clips to train on", self.memory.failures_of(self.train.rows))
            if not self.test_rows:
                raise nothing_read("held-out clips", self.memory.failures_of(self.held_out.rows))
            return
        failures = []  # a clip to train on that cannot be read is replaced by another one
        for place in range(len(self.held_out)):
            sample = self.held_out[0, place]
            if sample.inputs:
                return
            failures += sample.failures
        raise nothing_read("held-out clips", failures)

    def test_batches(self) -> Iterator[dict[str, Any]]:
        """The views of the held-out clips that can be read, each once; others come in "failures"
        alone."""
        if self.memory is not None:
            size = self.data.batch
            for first in range(0, len(self.test_rows), size):
                batch = self.memory.batch(self.test_rows[first : first + size])
                yield self._with_targets(batch)
            return
        for batch in make_eval_loader(self.held_out, self.data, device=self.device):
            yield self._with_targets(batch)

    def _with_targets(self, batch: dict[str, Any]) -> dict[str, Any]:
        target = self.targets.table[batch["clip"].long().cpu()].to(self.device)  # [B, C]
        return {**batch, "target": target}


class Memory:
    """Clips read once, as in a test, and kept on the device; unreadable ones are left out.

    Attributes:
        places: row of the manifest -> place in the tensors.
        failures: row of an unreadable clip -> its path and the reason.

    Raises:
        UserError: no clip can be read.
    """

    def __init__(self, manifest: Manifest, data: DataConfig, device: torch.device) -> None:
        dataset = ClipDataset(manifest, data, split=None, training=False, replace=False)
        kept: dict[str, list[Tensor]] = {name: [] for name in data.inputs}
        failures: list[tuple[str, str]] = []
        self.places: dict[int, int] = {}
        for batch in make_eval_loader(dataset, data, device=device):
            failures += batch["failures"]
            for row in batch["clip"].tolist():
                self.places[row] = len(self.places)
            for name, parts in kept.items():
                parts += [batch[name]] if name in batch else []
        if not self.places:
            raise nothing_read("clips", failures)
        self.tensors = {name: torch.cat(parts) for name, parts in kept.items()}
        unread = [row for row in dataset.rows if row not in self.places]
        self.failures = dict(zip(unread, failures, strict=True))  # both in the order of reading

    def failures_of(self, rows: Sequence[int]) -> list[tuple[str, str]]:
        """Path and reason of the unreadable clips among these."""
        return [self.failures[row] for row in rows if row in self.failures]

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


def nothing_read(clips: str, failures: Sequence[tuple[str, str]]) -> UserError:
    """What to say where not one of these clips could be read."""
    path, reason = failures[0]
    return UserError(
        f"none of the {len(failures)} {clips} can be read; the first, {path}: {reason}. List all "
        "with tools/check_data.py"
    )
