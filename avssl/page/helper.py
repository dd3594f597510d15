"""Decoding in a process of its own: what a file does to a decoder ends there."""

import contextlib
import os
import resource
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from avssl.data.container import MediaError
from avssl.data.processes import death, follow, server_context, without_main
from avssl.page.refusal import Refusal

Result = TypeVar("Result")

_MEMORY = 2 << 30  # bytes that decoding may take on top of what the process starts with
_PATIENCE = 60.0  # s that a call waits for its turn
BUSY = "The server is busy with other clips: try again in a minute."


class Helper:
    """Runs one call at a time in a process that lives on between calls, and is begun anew when it
    is too slow or dies.

    Args:
        seconds: for one call.
    """

    def __init__(self, *, seconds: float) -> None:
        self._seconds, self._turn = seconds, threading.Lock()
        self._running: tuple[Any, Connection] | None = None  # process, our end

    def __call__(self, function: Callable[..., Result], *args: Any) -> Result:
        """`function(*args)`, of a function that its module gives by name.

        Raises:
            MediaError: the function raised it, took too long or too much memory, or failed.
            Refusal: other calls took a minute.
        """
        if not self._turn.acquire(timeout=_PATIENCE):
            raise Refusal(503, BUSY)
        try:
            reply, failure = self._ask(function, args)
        finally:
            self._turn.release()
        if failure:
            raise MediaError(failure)
        return reply

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._running is not None:
            process, connection = self._running
            self._running = None
            connection.close()
            process.kill()
            process.join(5)

    def _ask(self, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, str]:
        """The result and "", or None and what is wrong."""
        if self._running is None:
            self._running = _start()
        process, connection = self._running
        try:
            connection.send((function, args))
            if connection.poll(self._seconds):
                return connection.recv()
            failure = f"took longer than {self._seconds:g} s"
        except (EOFError, OSError):
            process.join(5)
            failure = f"its reader {death(process.exitcode)}"
        self.close()
        return None, failure


def without_folder(error: MediaError, folder: Path) -> str:
    """What is wrong with a file, without the folder it lies in: visitors are not told of it."""
    text = str(error)
    for name in (str(folder), os.path.abspath(folder)):
        text = text.replace(f"{name}/", "")
    return text


def _start() -> tuple[Any, Connection]:
    context = server_context()
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
    with without_main():
        process.start()
    theirs.close()
    return process, ours


def _serve(connection: Connection, parent: int) -> None:
    import torch

    follow(parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how the parent ends its processes when it ends
    torch.set_num_threads(1)
    _limit_memory()
    while True:
        try:
            function, args = connection.recv()
        except (EOFError, OSError):
            return
        failure, result = "", None
        try:
            result = function(*args)
        except MediaError as error:
            failure = str(error)
        except MemoryError:
            failure = f"takes more than {_MEMORY / (1 << 30):g} GiB of memory to read"
        except Exception:  # a decoder's own kind of error; it may name folders
            traceback.print_exc()
            failure = "cannot be read"
        connection.send((result, failure))


def _limit_memory() -> None:
    """Where the system says how much address space is taken: on Linux."""
    with contextlib.suppress(FileNotFoundError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
