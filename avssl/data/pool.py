"""A map over files that survives them: a time limit for each, and crashes of decoders contained."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from avssl.data.container import MediaError
from avssl.data.processes import death, follow, server_context, without_main

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why an item has no result."""

    reason: str


@dataclass
class _Process(Generic[Item]):
    process: Any
    connection: Connection
    item: int | None = None  # position of the item it works on
    since: float = field(default_factory=time.monotonic)


def guarded_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, limit: float
) -> Iterator[tuple[int, Result | Failure]]:
    """(position, result) of each item as it gets ready, from helper processes.

    Args:
        function: importable from its module; runs in the helpers.
        workers: number of processes, 1 or more.
        limit: seconds for one item; then its process is ended and the item is a Failure, as it is
            when the process crashes or the function raises.
    """
    context = server_context()
    waiting = deque(range(len(items)))
    pool: list[_Process[Item]] = []
    try:
        while waiting or any(worker.item is not None for worker in pool):
            while waiting and len(pool) < workers:
                pool.append(_start(context, function))
            for worker in pool:
                if worker.item is None and waiting:
                    worker.item, worker.since = waiting.popleft(), time.monotonic()
                    worker.connection.send(items[worker.item])
            busy = [worker for worker in pool if worker.item is not None]
            oldest = min(worker.since for worker in busy)
            patience = max(0.01, oldest + limit - time.monotonic())
            ready = set(wait([worker.connection for worker in busy], patience))
            for worker in busy:
                assert worker.item is not None
                position = worker.item
                if worker.connection in ready:
                    try:
                        result = worker.connection.recv()
                        worker.item = None
                    except (EOFError, OSError):
                        worker.process.join(5)
                        result = Failure(f"its reader {death(worker.process.exitcode)}")
                        pool.remove(worker)
                        _end(worker)
                elif time.monotonic() - worker.since > limit:
                    result = Failure(f"took longer than {limit:g} s")
                    pool.remove(worker)
                    _end(worker)
                else:
                    continue
                yield position, result
    finally:
        for worker in pool:
            _end(worker)


def _start(context: Any, function: Callable[..., Any]) -> _Process[Any]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, os.getpid()), daemon=True)
    with without_main():
        process.start()
    theirs.close()
    return _Process(process, ours)


def _end(worker: _Process[Any]) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join(5)


def _serve(connection: Connection, function: Callable[..., Any], parent: int) -> None:
    follow(parent)
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = function(item)
        except MediaError as error:
            result = Failure(str(error))
        except Exception as error:  # a function that raises is documented to be a Failure
            result = Failure(f"{type(error).__name__}: {error}")
        connection.send(result)
