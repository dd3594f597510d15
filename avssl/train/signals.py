"""Ending a run politely: the first Ctrl-C or SIGTERM asks for a checkpoint, a second one kills."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


class StopRequest:
    """Truthy once the process was asked to end; use as a context manager around the training."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self.asked

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.asked = True
        for each in self.before:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(number).name
        print(f"\n{name}: saving a checkpoint after this step, then ending. Once more ends at once.", file=sys.stderr)
