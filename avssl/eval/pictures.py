"""Pictures of a model: reconstructions, and the audio-video similarity matrix.

Letters: B batch, N patches, P values of a patch, T frames, F mel bins, H W height width.
matplotlib is imported by the functions that draw, with a backend that needs no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from avssl.eval.features import Features
from avssl.eval.metrics import cosine
from avssl.eval.probes import SUBSET, retrievals
from avssl.ops.patches import Normalize, patchify, restore_patches, unpatchify

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = np.ndarray[Any, Any]  # [height, width, 3], 0..1
GAP = 4  # white pixels between pictures
HIDDEN = 0.55  # grey of masked patches


def reconstruct(
    input: Tensor,
    prediction: Tensor,
    mask: Tensor,
    *,
    patch: Sequence[int],
    normalize: Normalize,
) -> tuple[Tensor, Tensor]:
    """The input with masked patches as NaN, and the input as the decoder predicts it.

    input: [B, C, T, F] or [B, C, T, H, W]. prediction: [B, N, P] in the order of
    `avssl.ops.patches.patchify`. mask: [B, N], non-zero where masked.
    normalize: how the targets of the predictions were; their statistics are taken from the input.
    Visible patches, which no loss trains, show the input.
    """
    size = input.shape[2:]
    patches = patchify(input, patch)  # [B, N, P]
    prediction = restore_patches(prediction, patches, normalize, input.shape[1])
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
    input, of what the encoder sees and of the reconstruction, in three rows. Clips of one frame are
    a strip together."""
    still = input.shape[2] == 1
    count = min(frames, input.shape[2])
    times = torch.linspace(0, input.shape[2] - 1, count).round().long()
    offset, factor = (torch.tensor(list(x)).view(1, 3, 1, 1, 1) for x in (mean, std))
    chosen = torch.arange(min(frames if still else clips, len(input)))
    rows = []
    for strip in [chosen] if still else chosen.split(1):
        for values in (input, masked, shown):
            pixels = values[strip][:, :, times].float().cpu() * factor + offset  # [b, 3, T, H, W]
            pixels = pixels.nan_to_num(HIDDEN).clamp(0, 1).permute(0, 2, 3, 4, 1).flatten(0, 1)
            rows.append([_enlarge(image) for image in pixels.numpy()])
    names = ["input", "visible", "rebuilt"] * (len(rows) // 3)
    _save_sheet(path, rows, title=title, labels=names, groups=3, x="" if still else "time")


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
    if x:
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
