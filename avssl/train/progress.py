"""What a run says while it trains: a bar with ETA on a terminal, one plain line every N steps
elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Reporter:
    """Prints the progress of one stage instance; use as a context manager.

    Args:
        stage: its name.
        step, steps: where it starts (after a resume) and how many steps it has.
        batch: clips per step over all processes.
        every: steps between two plain lines.
        quiet: print nothing (every rank but 0).
    """

    def __init__(
        self, stage: str, *, step: int, steps: int, batch: int, every: int, quiet: bool
    ) -> None:
        self.stage, self.steps, self.batch, self.every, self.quiet = (
            stage,
            steps,
            batch,
            every,
            quiet,
        )
        self.recent: deque[tuple[float, float]] = deque(maxlen=max(every, 20))
        self.bar: Bar | None = None
        self.start = step
        self.skipped = False

    def __enter__(self) -> Reporter:
        if not self.quiet and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
            )
            self.bar = Progress(*columns)
            self.task = self.bar.add_task(
                self.stage, total=self.steps, completed=self.start, text=""
            )
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def say(self, text: str) -> None:
        """Print a sentence, above the bar if there is one."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def step(self, step: int, metrics: dict[str, float], *, seconds: float, waited: float) -> None:
        """Show step number `step` (from 1) that took `seconds`, `waited` of them for data."""
        if (
            self.skipped
        ):  # the first step of a process compiles and warms up: it would spoil the ETA
            self.recent.append((seconds, waited))
        self.skipped = True
        if self.quiet or (
            self.bar is None and step % self.every and step != self.steps and step != self.start + 1
        ):
            return
        text = self.line(step, metrics, seconds, waited)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, text=text)
        else:
            print(f"{self.stage} {text}", flush=True)

    def line(self, step: int, metrics: dict[str, float], seconds: float, waited: float) -> str:
        """One line: step, %, losses, learning rate, time per step, data wait, clips per second,
        time left."""
        if self.recent:
            seconds, waited = (
                sum(times) / len(self.recent) for times in zip(*self.recent, strict=True)
            )
        losses = " ".join(
            f"{name[5:]} {value:.4f}" for name, value in metrics.items() if name.startswith("loss/")
        )
        parts = [
            f"step {step}/{self.steps} {100 * step / self.steps:.0f}%",
            f"loss {metrics['loss']:.4f} ({losses})",
            f"lr {metrics['lr']:.2e}",
            f"{1000 * seconds:.0f} ms/step",
            f"data {1000 * waited:.0f} ms {100 * waited / seconds:.0f}%",
            f"{self.batch / seconds:.1f} clips/s",
            f"ETA {clock((self.steps - step) * seconds)}",
        ]
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def now() -> float:
    """A clock for durations, in seconds."""
    return time.perf_counter()
