"""Calls with a time limit: run in a helper thread, which is left behind when it takes too long."""

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class TimedCaller:
    """Runs one call at a time in a thread that lives on between calls (about 50 us a call).

    A call that does not come back keeps its thread: nothing can stop a decoder from outside. The
    thread is a daemon, so it does not keep the process alive either.
    """

    def __init__(self) -> None:
        self._process = 0  # threads do not survive a fork
        self._requests: queue.SimpleQueue[Any] | None = None
        self._results: queue.SimpleQueue[Any] | None = None

    def __call__(self, function: Callable[..., T], *args: Any, limit: float) -> T:
        """`function(*args)`, its exceptions included.

        Raises:
            TimeoutError: it took longer than `limit` seconds.
        """
        if self._requests is None or self._results is None or self._process != os.getpid():
            self._process = os.getpid()
            self._requests, self._results = queue.SimpleQueue(), queue.SimpleQueue()
            arguments = (self._requests, self._results)
            threading.Thread(target=_serve, args=arguments, daemon=True, name="avssl-clip").start()
        self._requests.put((function, args))
        try:
            value, error = self._results.get(timeout=limit)
        except queue.Empty:
            self._requests.put(None)  # the thread ends if the call ever returns
            self._requests = self._results = None
            raise TimeoutError(f"took longer than {limit:g} s") from None
        if error is not None:
            raise error
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {"_process": 0, "_requests": None, "_results": None}


def _serve(requests: "queue.SimpleQueue[Any]", results: "queue.SimpleQueue[Any]") -> None:
    while (request := requests.get()) is not None:
        function, args = request
        try:
            results.put((function(*args), None))
        except BaseException as error:  # handed over to the caller
            results.put((None, error))
        del request, function, args
