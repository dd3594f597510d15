"""Batches of clips of similar length, at most a budget of frames each.

Letters: N clips, T frames, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from avssl.data.length_config import LengthsConfig
from avssl.errors import UserError

Padding = tuple[int, int]  # frames and units that the clips of a batch are padded to
# (epoch, index); with data.lengths also the padding of the global batch, and frames of the shortest
# clip of the bucket it is from, where it is from one
Item = tuple[int, int] | tuple[int, int, Padding] | tuple[int, int, Padding, int]


class Buckets:
    """Clips parted by length, and batches of them: as many in each epoch, in an order of its own.

    Args:
        sizes: frames and units of each clip, int64 [N, 2].
        lengths: the `data.lengths` section.
        world: processes that share each batch evenly.

    Attributes:
        parts: indices of the clips of each bucket, from the shortest on.
        batch: clips in a batch of each bucket.
        floors: frames of the shortest clip of each bucket.
        steps: batches in an epoch. clips: clips in these.

    Raises:
        UserError: the budget or the clips are too few for the processes.
    """

    def __init__(self, sizes: np.ndarray, lengths: LengthsConfig, *, world: int = 1) -> None:
        if len(sizes) < world:
            raise UserError(f"{len(sizes)} clips are too few for {world} processes")
        longest = int(sizes[:, 0].max())
        if longest * world > lengths.budget:
            raise UserError(
                f"data.lengths.budget = {lengths.budget} frames does not hold a clip of {longest} "
                f"frames for each of {world} process{'es' if world > 1 else ''}: set it to at "
                f"least {longest * world}, or lower data.lengths.longest"
            )
        ranked = np.argsort(sizes[:, 0], kind="stable")
        # no bucket without a batch: each has a clip for every process
        self.parts = np.array_split(ranked, min(lengths.buckets, len(sizes) // world))
        self.batch = [_clips(sizes[part], lengths.budget, world) for part in self.parts]
        counts = [len(part) // size for part, size in zip(self.parts, self.batch, strict=True)]
        self.floors = [int(sizes[part, 0].min()) for part in self.parts]
        self.steps = sum(counts)
        self.clips = sum(n * size for n, size in zip(counts, self.batch, strict=True))

    def shortest(self, frames: int) -> int:
        """Frames of the shortest clip of the bucket that a clip of so many is in."""
        return max(floor for floor in self.floors if floor <= frames)

    def order(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The clips of each batch of an epoch, a function of (seed, epoch) alone."""
        random = np.random.default_rng([seed, epoch])
        batches: list[np.ndarray] = []
        for part, size in zip(self.parts, self.batch, strict=True):
            shuffled = random.permutation(part)
            batches += [shuffled[i : i + size] for i in range(0, len(part) - size + 1, size)]
        return [batches[i] for i in random.permutation(len(batches))]


class BucketBatches(Sequence[list[Item]]):
    """Items of each step's batch of clips of similar length, computed when asked for."""

    def __init__(
        self,
        buckets: Buckets,
        sizes: np.ndarray,
        *,
        seed: int,
        steps: range,
        rank: int,
        world: int,
    ) -> None:
        self.buckets, self.sizes, self.seed, self.steps = buckets, sizes, seed, steps
        self.rank, self.world = rank, world
        self._order: tuple[int, list[np.ndarray]] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: Any) -> Any:
        if not 0 <= position < len(self.steps):
            raise IndexError(position)
        epoch, place = divmod(self.steps[position], self.buckets.steps)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self.buckets.order(self.seed, epoch))
        rows = self._order[1][place]
        share = len(rows) // self.world
        own = rows[self.rank * share : (self.rank + 1) * share]
        wide = padding(self.sizes, rows)  # of the whole batch: the same on every rank
        shortest = self.buckets.shortest(int(self.sizes[rows, 0].min()))
        return [(epoch, int(index), wide, shortest) for index in own]


def _clips(sizes: np.ndarray, budget: int, world: int) -> int:
    """Clips in a batch of a bucket."""
    longest = int(sizes[:, 0].max())
    return min(budget // longest, len(sizes)) // world * world


def padding(sizes: np.ndarray, rows: Sequence[int] | np.ndarray) -> Padding:
    """What the clips of a batch are padded to."""
    frames, units = sizes[rows].max(0).tolist()
    return frames, units


def by_length(sizes: np.ndarray, rows: Sequence[int], budget: int) -> list[list[int]]:
    """Each clip once, in the order of length, in batches within the budget (or of one clip)."""
    batches: list[list[int]] = []
    for row in sorted(rows, key=lambda row: sizes[row, 0]):
        if not batches or sizes[row, 0] * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(row)
    return batches
