"""Timing calls side by side: alternating, so that a busy machine slows each alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
CLOCK_HELP = "processor time is that of this process alone: the steadier one on a busy CPU"


def alternate(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time each call once per round, in an order that turns every round, after a warm-up round.

    Returns:
        seconds of each round by name; the lists pair up.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            _synchronize()
            start = clock()
            calls[name]()
            _synchronize()
            if number:
                times[name].append(clock() - start)
    return times


def median_ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """The median over rounds of the time of ``name`` over that of ``base``."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
