"""Ending a run politely: the first Ctrl-C or SIGTERM asks for a checkpoint, a second one kills."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

# seconds in which signals count as one: `timeout` and torchrun send theirs twice at once
TOGETHER = 2.0


class StopRequest:
    """Truthy once the process was asked to end; use as a context manager around the training."""

    def __init__(self) -> None:
        self.asked = 0  # the signal, once there was one
        self.since = 0.0
        self.before: dict[int, object] = {}

    def __bool__(self) -> bool:
        return bool(self.asked)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows them only there
            self.before = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            if time.monotonic() - self.since < TOGETHER:
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.asked, self.since = number, time.monotonic()
        name = signal.Signals(number).name
        print(f"\n{name}: ending after this step, with a checkpoint; once more ends at once.",
              file=sys.stderr)  # fmt: skip
