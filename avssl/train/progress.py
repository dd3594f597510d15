"""What a run says while it trains: a bar with ETA on a terminal, one plain line every N steps
elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

DIGITS = "#.4g"  # of losses: those of unit vectors of many channels are small


@dataclass(frozen=True)
class Job:
    """What is shown progress of.

    Attributes:
        stage: name of the stage instance.
        start, steps: steps done by earlier processes, and all steps of the stage.
        batch: clips per step over all processes; the mean of them where batches differ.
        every: steps between two plain lines.
        flops: operations per clip in a step, and `peak` those per second that all devices could
            do; 0 where not known.
    """

    stage: str
    start: int
    steps: int
    batch: float
    every: int
    flops: float = 0.0
    peak: float = 0.0


class Reporter:
    """Prints the progress of one job; use as a context manager. A quiet one prints nothing."""

    def __init__(self, job: Job, *, quiet: bool) -> None:
        self.job, self.quiet = job, quiet
        self.recent: deque[tuple[float, float]] = deque(maxlen=max(job.every, 20))
        self.bar: Bar | None = None
        self.warm = False

    def __enter__(self) -> Reporter:
        if not self.quiet and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            text = TextColumn("[bold]{task.description}"), TextColumn("{task.fields[text]}")
            self.bar = Progress(text[0], BarColumn(bar_width=20), text[1])
            job = self.job
            self.task = self.bar.add_task(job.stage, total=job.steps, completed=job.start, text="")
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
        if self.warm:  # the first step of a process compiles and would spoil the ETA
            self.recent.append((seconds, waited))
        self.warm = True
        if self.quiet:
            return
        if self.recent:
            means = [sum(times) / len(self.recent) for times in zip(*self.recent, strict=True)]
            seconds, waited = means
        left = clock((self.job.steps - step) * seconds)
        if self.bar is not None:
            text = f"{step}/{self.job.steps}  loss {metrics['loss']:{DIGITS}}  ETA {left}"
            self.bar.update(self.task, completed=step, text=text)
        if step % self.job.every == 0 or step in (self.job.start + 1, self.job.steps):
            self.say(self.line(step, metrics, seconds, waited))

    def line(self, step: int, metrics: dict[str, float], seconds: float, waited: float) -> str:
        """Step, %, losses, learning rate, step time, data wait, clips per second, time left."""
        job = self.job
        losses = [f"{k[5:]} {v:{DIGITS}}" for k, v in metrics.items() if k.startswith("loss/")]
        parts = [
            f"{job.stage} step {step}/{job.steps} {100 * step / job.steps:.0f}%",
            f"loss {metrics['loss']:{DIGITS}} ({' '.join(losses)})",
            f"lr {metrics['lr']:.2e}",
            f"{1000 * seconds:.0f} ms/step",
            f"data {1000 * waited:.0f} ms {100 * waited / seconds:.0f}%",
            f"{job.batch / seconds:.1f} clips/s",
            f"ETA {clock((job.steps - step) * seconds)}",
        ]
        if job.flops and job.peak:
            parts.insert(-1, f"MFU {100 * job.flops * job.batch / seconds / job.peak:.1f}%")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def now() -> float:
    """A clock for durations, in seconds."""
    return time.perf_counter()
