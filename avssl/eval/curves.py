"""Curves of a run: its metrics.jsonl as panels over the steps, one stage after the other.

matplotlib is imported by the functions that draw, with a backend that needs no display.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avssl.eval.pictures import pyplot, save_figure
from avssl.files import metrics_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[int, float]]  # (step, value)


def curves_picture(path: Path, metrics: Path) -> None:
    """Curves of a run over its steps, one panel a quantity, from metrics.jsonl.

    Stages follow one another on the x axis with a line and their name between them. Nothing is
    drawn where nothing has changed yet.
    """
    series, bounds = read_metrics(metrics)
    panels = _panels(series)
    if not panels:
        return
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    plt = pyplot()
    figure, grid = plt.subplots(
        lines, columns, figsize=(4.3 * columns, 2.7 * lines), squeeze=False, sharex=True,
        layout="constrained",
    )  # fmt: skip
    used, spare = grid.flat[: len(panels)], grid.flat[len(panels) :]
    for axes, (title, names) in zip(used, panels.items(), strict=True):
        for i, name in enumerate(names):
            for j, part in enumerate(_stages(series[name], bounds)):
                _curve(axes, part, colour=f"C{i}", label=_label(name) if j == 0 else None)
        values = [value for name in names for _, value in series[name]]
        if min(values) > 0 and max(values) > 20 * min(values) and title != "lr":
            axes.set_yscale("log")
        axes.set_title(title, fontsize=10, pad=12)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        for start, stage in bounds:
            axes.axvline(start, color="0.6", linewidth=0.8, linestyle=":")
            axes.annotate(
                stage, (start, 1), xycoords=("data", "axes fraction"), fontsize=7, color="0.4",
                xytext=(1, 1), textcoords="offset points", va="bottom",
            )  # fmt: skip
        if len(names) > 1:
            axes.legend(fontsize=7, framealpha=0.6, edgecolor="none", ncols=1 + len(names) // 5)
    for axes in spare:
        axes.set_visible(False)
    for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    save_figure(figure, path)


def read_metrics(path: Path) -> tuple[dict[str, Points], list[tuple[int, str]]]:
    """metrics.jsonl as series over the steps of the whole run, and where each stage starts.

    Each line is an object with `stage`, `step` (counted within the stage) and figures, which may
    be nested; series names join levels with "/".
    """
    series: dict[str, Points] = {}
    bounds: list[tuple[int, str]] = []
    start, last = 0, -1
    for row in metrics_rows(path):
        stage, step = row.pop("stage"), row.pop("step")
        if not bounds or bounds[-1][1] != stage:
            start = last + 1
            bounds.append((start, stage))
        last = max(last, start + step)
        for name, value in _flat(row, ""):
            series.setdefault(name, []).append((start + step, value))
    return series, bounds


def _flat(row: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    found = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            found.append((prefix + name, float(value)))
    return found


def _panels(series: Mapping[str, Points]) -> dict[str, list[str]]:
    """Panel title -> series drawn in it; times and figures that never change are left out."""
    drawn = [name for name, points in series.items() if len({value for _, value in points}) > 1]
    panels: dict[str, list[str]] = {}
    for name in drawn:
        kind, _, rest = name.partition("/")
        if kind in ("loss", "log", "lr"):
            title = f"{'loss ' if kind == 'loss' else ''}{rest.replace('_', ' ')}"
            panels[title if rest else {"loss": "total loss"}.get(kind, kind)] = [name]
        elif kind == "grad":
            panels.setdefault("gradient norm", []).append(name)
        elif kind == "retrieval":
            what = "R@1" if name.endswith("_r1") else "median rank"
            panels.setdefault(f"retrieval {what} (val)", []).append(name)
        elif kind in ("knn", "rankme"):
            title = "kNN accuracy (val)" if kind == "knn" else "effective rank, RankMe (val)"
            panels.setdefault(title, []).append(name)
    order = ("total", "loss", "lr", "gradient", "retrieval", "kNN", "effective")
    place = {word: i for i, word in enumerate(order)}
    return dict(sorted(panels.items(), key=lambda item: place.get(item[0].split(" ")[0], 1.5)))


def _stages(points: Points, bounds: Sequence[tuple[int, str]]) -> list[Points]:
    """The points of each stage that has any: a curve is not drawn from one stage to the next."""
    ends = [start for start, _ in bounds[1:]] + [math.inf]
    parts = [
        [point for point in points if start <= point[0] < end]
        for (start, _), end in zip(bounds, ends, strict=True)
    ]
    return [part for part in parts if part]


def _label(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix("_r1").removesuffix("_median").replace("_", " ")


def _curve(axes: Axes, points: Points, *, colour: str, label: str | None) -> None:
    """A curve; one with many points is drawn faintly under its running mean."""
    steps, values = (np.array(x) for x in zip(*points, strict=True))
    if len(values) < 60:
        axes.plot(steps, values, linewidth=1.3, marker=".", markersize=4, color=colour, label=label)
        return
    half = len(values) // 60
    sums = np.cumsum(np.concatenate([[0.0], values]))
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    axes.plot(steps, values, linewidth=0.6, alpha=0.3, color=colour)
    mean = (sums[last] - sums[first]) / (last - first)
    axes.plot(steps, mean, linewidth=1.3, color=colour, label=label)
