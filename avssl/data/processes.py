"""Start of helper processes: from a clean fork server, so that no decoder or lock is inherited."""

import multiprocessing
import os
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_starting = threading.Lock()  # the environment is changed while the server starts


def server_context() -> Any:
    """The multiprocessing context for processes that decode media.

    decord hangs when a reader opened before a fork is used after it, and threads of the parent
    (torch's among them) leave locks behind. The fork server is a process of its own which imports
    what is needed once; every further start is a plain fork of it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    with _starting:
        context.set_forkserver_preload(["avssl.data.worker"])
        _start_server()
    return context


def _start_server() -> None:
    from multiprocessing import forkserver, resource_tracker

    # the server imports before it learns the parent's sys.path
    before = os.environ.get("PYTHONPATH")
    package = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, before]))
    # started with the server otherwise, and it unblocks Ctrl-C when it starts
    resource_tracker.ensure_running()
    # Ctrl-C is for the parent; the server keeps what is blocked when it starts
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


_main = threading.Lock()


@contextmanager
def without_main() -> Iterator[None]:
    """Processes started inside do not run the user's script again (nothing they need is in it).

    One thread at a time: a second one would take the first one's empty module for the script.
    """
    with _main:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def follow(parent: int) -> None:
    """In a helper process: leave signals to the parent, and end as soon as the parent is gone.

    Ctrl-C and job schedulers signal all processes of a run, but the parent needs its helpers up to
    its last checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="avssl-parent").start()


def _watch(parent: int) -> None:
    """The fork server lives as long as its children: they must notice the parent's end."""
    try:
        select.select([os.pidfd_open(parent)], [], [])  # ready once it ended, reaped or not
        os._exit(1)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):  # not on every system
        pass
    while True:
        time.sleep(1)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os._exit(1)
        except PermissionError:
            pass


def death(code: int | None) -> str:
    """What an exit code of a helper process means, as the end of "the process ..."."""
    if code is None or code >= 0:
        return "ended unexpectedly"
    if -code == signal.SIGKILL:
        return "was killed (signal 9), most likely because the memory is full"
    return f"crashed ({signal.Signals(-code).name})"
