"""Batches for training and evaluation: a fixed order, worker processes, failures counted.

Letters: B batch (this rank's share of the global batch).
"""

import copy
import dataclasses
import os
import signal
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from avssl.data.buckets import BucketBatches, Buckets, Item, by_length, padding
from avssl.data.config import DataConfig
from avssl.data.dataset import ClipDataset
from avssl.data.processes import death, follow, server_context, without_main
from avssl.errors import UserError

_SHARE_WINDOW = 256  # clips over which the share of bad ones is taken
_NO_MEMORY = 75  # exit code of a worker that has no shared memory left to hand a batch over
_SHARE_FROM = 32  # clips seen before it counts
_REPORT_S = 10.0  # for the fork server to tell of a worker's end


def steps_per_epoch(dataset: ClipDataset, config: DataConfig, *, world: int = 1) -> int:
    """Full global batches in one pass; the rest of an epoch's order is dropped.

    Raises:
        UserError: there are fewer clips than the batch has rows, or a batch of data.lengths cannot
            hold a clip for each process.
    """
    if dataset.sizes is not None:
        return make_buckets(dataset, config, world=world).steps
    steps = len(dataset) // config.batch
    if steps == 0:
        raise UserError(
            f"the split '{dataset.split}' has {len(dataset)} usable clips, fewer than data.batch = "
            f"{config.batch}: set data.batch to at most {len(dataset)}"
        )
    return steps


def make_buckets(dataset: ClipDataset, config: DataConfig, *, world: int) -> Buckets:
    """The batches of clips of their own length.

    Raises:
        UserError: the budget or the clips are too few for the processes.
    """
    assert dataset.sizes is not None and config.lengths is not None
    return Buckets(dataset.sizes, config.lengths, world=world)


def make_loader(
    dataset: ClipDataset,
    config: DataConfig,
    *,
    seed: int,
    start_step: int,
    steps: int,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    inputs: Collection[str] | None = None,
) -> "Loader":
    """Batches of the steps start_step to steps - 1, shuffled anew each epoch, without end.

    The order is a function of (seed, epoch) alone: a loader started at step k gives what an
    uninterrupted one gives from step k on, and the batches of all ranks, one below the other, are
    the batch of a single process.

    Args:
        rank, world: this rank gets rows [rank * b : (rank + 1) * b] of each global batch, which
            `avssl.train.parallel.start` has found to be a multiple of `world`; with data.lengths,
            batches are multiples of `world`, so that another number of processes has others.
        device: where the batches go; pictures are normalised there.
        inputs: those of `data.inputs` that are read; None: all. Which clips serve is up to all.

    Raises:
        UserError: the batch is larger than the data set.
    """
    steps_per_epoch(dataset, config, world=world)
    dataset, config = _reading(dataset, config, inputs)
    dataset.seed = seed
    batches: Sequence[list[Item]]
    if dataset.sizes is not None:
        batches = BucketBatches(
            make_buckets(dataset, config, world=world),
            dataset.sizes,
            seed=seed,
            steps=range(start_step, steps),
            rank=rank,
            world=world,
        )
    else:
        batches = _TrainBatches(
            len(dataset),
            config.batch,
            seed=seed,
            steps=range(start_step, steps),
            rank=rank,
            world=world,
        )
    return Loader(dataset, config, batches, device=device)


def _reading(
    dataset: ClipDataset, config: DataConfig, inputs: Collection[str] | None
) -> tuple[ClipDataset, DataConfig]:
    """A copy that makes these inputs alone, and the configuration that says so."""
    dataset = copy.copy(dataset)
    if inputs is not None:
        made = {name: item for name, item in config.inputs.items() if name in inputs}
        config = dataset.config = dataclasses.replace(config, inputs=made)
    return dataset, config


def make_eval_loader(
    dataset: ClipDataset,
    config: DataConfig,
    *,
    clips: int | None = None,
    device: torch.device | str = "cpu",
    inputs: Collection[str] | None = None,
) -> "Loader":
    """Each clip once, in order, the last batch shorter; with `clips`, that many evenly spread.

    With data.lengths the shortest come first, in batches within the budget. `inputs` as of
    `make_loader`.
    """
    dataset, config = _reading(dataset, config, inputs)
    number = len(dataset) if clips is None else min(clips, len(dataset))
    indices = [index * len(dataset) // number for index in range(number)]
    batches: list[list[Item]]
    if dataset.sizes is not None and config.lengths is not None:
        batches = [
            [(0, index, padding(dataset.sizes, rows)) for index in rows]
            for rows in by_length(dataset.sizes, indices, config.lengths.budget)
        ]
        return Loader(dataset, config, batches, device=device)
    chosen: list[Item] = [(0, index) for index in indices]
    batches = [chosen[i : i + config.batch] for i in range(0, number, config.batch)]
    return Loader(dataset, config, batches, device=device)


class Loader:
    """Iterable of batches; worker processes live for one iteration and end with it.

    A batch is a dict: a tensor for each entry of `data.inputs`, `label` [B], `clip` [B] (row in the
    manifest), `replaced` [B] (1 where an unreadable clip was replaced), `failures`: (path, reason).
    With a data set that does not replace clips, rows may be missing, and B may be 0. With
    data.lengths there is also `frames` (`ClipDataset.collate`).

    Raises, while iterating:
        UserError: too large a share of clips is unreadable, or a worker process died.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        config: DataConfig,
        batches: Sequence[list[Any]],  # of items
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.batches = batches
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        watch = _BadShare(self.dataset, self.config)
        workers = min(self.config.workers, len(self.batches))
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.batches,
            collate_fn=self.dataset.collate,
            num_workers=workers,
            prefetch_factor=self.config.prefetch if workers else None,
            multiprocessing_context=server_context() if workers else None,
            worker_init_fn=_Worker() if workers else None,
            pin_memory=self.device.type == "cuda",
        )
        with without_main():
            iterator = iter(loader)
        processes = list(getattr(iterator, "_workers", []))
        # an error that ends the program may keep this generator alive, and workers ignore SIGTERM:
        # they must be gone before multiprocessing waits for them
        ended = Finalize(None, _kill, (processes,), exitpriority=10)
        try:
            while True:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
                    message = _death(processes, error)
                    if message is None:
                        raise
                    raise UserError(message) from None
                watch.add(batch)
                yield self.dataset.finish(batch, self.device)
        finally:
            del iterator  # ends the workers, and waits some seconds for them
            ended()


class _TrainBatches(Sequence[list[Item]]):
    """Items of each step's batch, computed when asked for."""

    def __init__(
        self, clips: int, batch: int, *, seed: int, steps: range, rank: int, world: int
    ) -> None:
        self.clips, self.batch, self.seed, self.steps = clips, batch, seed, steps
        share = batch // world
        self.rows = slice(rank * share, (rank + 1) * share)
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: Any) -> Any:
        if not 0 <= position < len(self.steps):
            raise IndexError(position)
        epoch, place = divmod(self.steps[position], self.clips // self.batch)
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.clips)
            self._order = (epoch, order)
        rows = self._order[1][place * self.batch : (place + 1) * self.batch][self.rows]
        return [(epoch, int(index)) for index in rows]


class _BadShare:
    """Stops the run when too many of the last clips were unreadable."""

    def __init__(self, dataset: ClipDataset, config: DataConfig) -> None:
        self.limit, self.inputs = config.max_bad_share, list(config.inputs)
        self.replace = dataset.replace
        self.enough = min(_SHARE_FROM, len(dataset))
        self.seen: deque[int] = deque(maxlen=_SHARE_WINDOW)
        self.reasons: deque[tuple[str, str]] = deque(maxlen=3)

    def add(self, batch: dict[str, Any]) -> None:
        self.reasons.extend(batch["failures"])
        self.seen.extend(batch["replaced"].tolist())
        bad = sum(self.seen)
        hopeless = self.replace and not any(name in batch for name in self.inputs)
        if hopeless or (len(self.seen) >= self.enough and bad > self.limit * len(self.seen)):
            examples = "; ".join(f"{path}: {reason}" for path, reason in self.reasons)
            raise UserError(
                f"{bad} of the last {len(self.seen)} clips could not be read, more than "
                f"data.max_bad_share = {self.limit:g} allows; the last: {examples}. "
                "List all with tools/check_data.py"
            )


def _kill(processes: Sequence[Any]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()


class _Worker:
    """Set-up of a worker process."""

    def __init__(self) -> None:
        self.parent = os.getpid()

    def __call__(self, worker: int) -> None:
        follow(self.parent)
        # a batch that could not be handed over is dropped, and the run would wait for it for ever
        Queue._on_queue_feeder_error = staticmethod(_unsent)  # type: ignore[attr-defined]


def _unsent(error: Exception, batch: object) -> None:
    os._exit(_NO_MEMORY)


def _death(processes: Sequence[Any], error: Exception) -> str | None:
    """What to tell when the error means that a worker process died; None if it does not.

    A worker that dies while it hands a batch over breaks the connection before the fork server
    tells of its end.
    """
    text = str(error)
    if not processes or text.startswith("Caught "):  # the latter is what a living worker passed on
        return None
    if isinstance(error, RuntimeError):
        if "worker" not in text or not ("exited" in text or "killed" in text):
            return None
    elif not wait([process.sentinel for process in processes], timeout=_REPORT_S):
        return None
    code = next((process.exitcode for process in processes if process.exitcode), None)
    if code in (_NO_MEMORY, -signal.SIGBUS):
        advice = (
            "/dev/shm is full: give the container more (--shm-size) or lower data.prefetch and "
            "data.batch"
        )
    elif code == -signal.SIGKILL:
        advice = "lower data.workers, data.prefetch or data.batch"
    elif code is not None and code < 0:
        advice = "find the file with tools/check_data.py"
    else:
        advice = "set data.workers=0 to see the error itself"
    return f"a loader process {death(code)}: {advice}"
