"""In which order clips are trained on: permutations, or draws that balance the classes.

Letters: N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from avssl.errors import UserError


class Order(Sequence[list[tuple[int, int]]]):
    """The clips of each step's batch, a function of (seed, step) alone.

    Without weights each epoch is a new permutation, with the rest that fills no batch left out.
    With weights, clips are drawn in their proportion, with replacement; one drawn twice in an
    epoch comes with the same random window both times. With repeats, the whole batch comes again
    behind itself, each time with other random windows and augmentation: cutmix, which joins
    neighbours, then joins different clips.

    Args:
        clips: how many there are.
        batch: clips a step.
        per_epoch: clips an epoch, None for all.
        repeats: copies of each clip in a batch.
        seed: of the draws.
        weights: [clips].
        steps: the steps wanted.

    Raises:
        UserError: an epoch holds less than a batch, or more than there are.
    """

    def __init__(
        self,
        clips: int,
        *,
        batch: int,
        per_epoch: int | None,
        repeats: int,
        seed: int,
        weights: np.ndarray | None,
        steps: range,
    ) -> None:
        self.clips, self.batch, self.seed, self.weights, self.steps = (
            clips, batch, seed, weights, steps,
        )  # fmt: skip
        self.repeats = repeats
        self.drawn = per_epoch or clips
        self.per_epoch = steps_per_epoch(clips, batch, per_epoch, balanced=weights is not None)
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: Any) -> Any:
        if not 0 <= position < len(self.steps):
            raise IndexError(position)
        epoch, place = divmod(self.steps[position], self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            if self.weights is None:
                order = random.permutation(self.clips)[: self.drawn]
            else:
                shares = self.weights / self.weights.sum()
                order = random.choice(self.clips, self.drawn, p=shares)
            self._order = (epoch, order)
        rows = self._order[1][place * self.batch : (place + 1) * self.batch]
        # an epoch number of its own for each copy, which its random draws follow from
        epochs = [epoch * self.repeats + copy for copy in range(self.repeats)]
        return [(copy, int(index)) for copy in epochs for index in rows]


def steps_per_epoch(clips: int, batch: int, per_epoch: int | None, *, balanced: bool) -> int:
    """Full batches in an epoch. Raises UserError where there is none."""
    if per_epoch is not None and per_epoch > clips and not balanced:
        raise UserError(
            f"train.epoch_clips is {per_epoch}, but there are {clips} clips to train on: lower it, "
            "or set train.balanced, which draws clips more than once"
        )
    steps = (per_epoch or clips) // batch
    if steps == 0:
        raise UserError(
            f"an epoch has {per_epoch or clips} clips, fewer than data.batch = {batch}: lower "
            "data.batch"
        )
    return steps


def balancing_weights(table: Tensor) -> np.ndarray:
    """How often each clip is to be drawn: the sum of 1 / (clips of the class) over its classes
    (AST's and AudioMAE's sampler). table: [N, C]. Returns [N]."""
    counts = table.sum(0).clamp_min(1)  # [C]
    return (table / counts).sum(1).double().numpy()
