"""Pictures of a run: reconstructions, the audio-video similarity matrix, curves over training.

Letters: B batch, N patches, P values of a patch, T frames, F mel bins, H W height width.
matplotlib is imported by the functions that draw, with a backend that needs no display.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from avssl.eval.features import Features
from avssl.eval.metrics import cosine
from avssl.eval.probes import SUBSET, retrievals
from avssl.files import metrics_rows
from avssl.ops.patches import patch_statistics, patchify, unpatchify

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = np.ndarray[Any, Any]  # [height, width, 3], 0..1
Points = list[tuple[int, float]]  # (step, value)
GAP = 4  # white pixels between pictures
HIDDEN = 0.55  # grey of masked patches


def reconstruct(
    input: Tensor,
    prediction: Tensor,
    mask: Tensor,
    *,
    patch: Sequence[int],
    normalized: bool,
) -> tuple[Tensor, Tensor]:
    """The input with masked patches as NaN, and the input as the decoder predicts it.

    input: [B, C, T, F] or [B, C, T, H, W]. prediction: [B, N, P] in the order of
    `avssl.ops.patches.patchify`. mask: [B, N], non-zero where masked.
    normalized: predictions are in units of each patch's own mean and deviation, which are taken
    from the input. Visible patches, which no loss trains, show the input.
    """
    size = input.shape[2:]
    patches = patchify(input, patch)  # [B, N, P]
    if normalized:
        mean, deviation = patch_statistics(patches)
        prediction = prediction * deviation + mean
    hidden = mask.bool().unsqueeze(-1)  # [B, N, 1]
    masked = torch.where(hidden, torch.nan, patches)
    shown = torch.where(hidden, prediction, patches)
    return unpatchify(masked, size, patch), unpatchify(shown, size, patch)


def spectrogram_picture(
    path: Path, input: Tensor, masked: Tensor, shown: Tensor, *, title: str, clips: int = 4
) -> None:
    """Log-mel spectrograms [B, 1, T, F] side by side: one row a clip; time to the right."""
    cmap = pyplot().get_cmap("magma").with_extremes(bad=str(HIDDEN))
    rows = []
    for i in range(min(clips, len(input))):
        real = input[i, 0].float().cpu()
        low, high = (q.item() for q in real.quantile(torch.tensor([0.005, 0.995])))
        row = []
        for x in (real, masked[i, 0].float().cpu(), shown[i, 0].float().cpu()):
            scaled = ((x.T.flip(0) - low) / max(high - low, 1e-6)).clamp(0, 1).numpy()
            row.append(cmap(np.ma.masked_invalid(scaled))[..., :3])  # [F, T, 3]
        rows.append(row)
    rows = [[_enlarge(image) for image in row] for row in rows]
    names = ["input", "what the encoder sees", "reconstruction"]
    _save_sheet(path, rows, title=title, columns=names, y="frequency (mel)")


def video_picture(
    path: Path,
    input: Tensor,
    masked: Tensor,
    shown: Tensor,
    *,
    title: str,
    mean: Sequence[float],
    std: Sequence[float],
    clips: int = 2,
    frames: int = 8,
) -> None:
    """Frames [B, 3, T, H, W], normalised with mean and std: for each clip a strip of frames of the
    input, of what the encoder sees and of the reconstruction, in three rows."""
    count = min(frames, input.shape[2])
    times = torch.linspace(0, input.shape[2] - 1, count).round().long()
    offset, factor = (torch.tensor(list(x)).view(3, 1, 1, 1) for x in (mean, std))
    rows = []
    for i in range(min(clips, len(input))):
        for values in (input, masked, shown):
            pixels = values[i].float().cpu()[:, times] * factor + offset  # [3, T, H, W]
            pixels = pixels.nan_to_num(HIDDEN).clamp(0, 1).permute(1, 2, 3, 0)
            rows.append(list(pixels.numpy()))
    rows = [[_enlarge(image) for image in row] for row in rows]
    names = ["input", "visible", "rebuilt"] * (len(rows) // 3)
    _save_sheet(path, rows, title=title, labels=names, groups=3, x="time")


def similarity_picture(path: Path, features: Features, *, title: str = "") -> None:
    """Cosine of audio and video of 200 clips, ordered by label, with R@1 both ways as title.

    features: two towers of equal width; the clips are those of the table's smaller retrieval. A
    bright diagonal means that each sound finds its picture.
    """
    features = features.draw(SUBSET)
    (a, x), (b, y) = list(features.vectors.items())[:2]
    found = retrievals(features)
    order = torch.argsort(features.labels, stable=True)
    similarity = cosine(x[order], y[order]).numpy()
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.2, 5.6), layout="constrained")
    low, high = np.percentile(similarity, [1, 99.8])
    image = axes.imshow(similarity, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.85)
    axes.set_xlabel(f"{b}, {len(y)} clips ordered by class")
    axes.set_ylabel(f"{a}, the same clips")
    axes.set_xticks([])
    axes.set_yticks([])
    there, back = found[f"{a}_to_{b}"], found[f"{b}_to_{a}"]
    recalls = f"R@1 {a} → {b} {there.r1:.1%}, {b} → {a} {back.r1:.1%} (chance {there.chance:.1%})"
    axes.set_title(f"{title}\n{recalls}" if title else recalls, fontsize=10)
    save_figure(figure, path)


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
    # axes to spare in the last line are hidden below
    for axes, (title, names) in zip(grid.flat, panels.items(), strict=False):
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
    for axes in list(grid.flat)[len(panels) :]:
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


def _enlarge(image: Image) -> Image:
    """Small pictures at a whole multiple of their size, about 128 pixels high, or as they are."""
    scale = max(1, round(128 / image.shape[0]))
    return image.repeat(scale, 0).repeat(scale, 1)


def _save_sheet(
    path: Path,
    rows: list[list[Image]],
    *,
    title: str,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    groups: int = 1,
    x: str = "time",
    y: str = "",
) -> None:
    """Pictures in rows, drawn pixel by pixel; a wider gap after every `groups` rows."""
    height, width = rows[0][0].shape[:2]
    bands = []
    for i, row in enumerate(rows):
        cells = [cell for image in row for cell in (image, np.ones((height, GAP, 3)))][:-1]
        bands.append(np.concatenate(cells, axis=1))
        if i + 1 < len(rows):
            gap = GAP if (i + 1) % groups else (3 if groups > 1 else 1) * GAP
            bands.append(np.ones((gap, bands[0].shape[1], 3)))
    sheet = np.concatenate(bands, axis=0)
    inches = (sheet.shape[1] / 110, sheet.shape[0] / 110)
    left, bottom, top = 0.75, 0.3, 0.55 if columns else 0.35
    full = (inches[0] + left + 0.1, inches[1] + bottom + top)
    figure = pyplot().figure(figsize=full)
    axes = figure.add_axes(
        (left / full[0], bottom / full[1], inches[0] / full[0], inches[1] / full[1])
    )
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"{x} →", fontsize=9)
    if y:
        axes.set_ylabel(f"{y} →", fontsize=9)
    for i, name in enumerate(columns):
        middle = i * (width + GAP) + width / 2
        axes.text(middle, -6, name, ha="center", va="bottom", fontsize=9)
    top_of = 0
    for i, name in enumerate(labels):
        axes.text(-6, top_of + height / 2, name, ha="right", va="center", fontsize=9)
        top_of += height + (GAP if (i + 1) % groups else 3 * GAP)
    figure.text(left / full[0], 1 - 0.08 / full[1], title, fontsize=10, va="top", weight="bold")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, the same bytes for the same figure, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else None)
    pyplot().close(figure)


def pyplot() -> Any:
    """matplotlib.pyplot with a backend that needs no display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
