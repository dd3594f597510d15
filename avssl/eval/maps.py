"""Pictures of an evaluation: the confusion matrix, and the features laid out in the plane.

Letters: N clips, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from avssl.eval.pictures import pyplot, save_figure
from avssl.optional import need

Projection = Literal["tsne", "umap"]
POINTS = 2000  # clips drawn at most
_NAMED = 40  # classes whose names fit beside a picture


def confusion_picture(
    path: Path, counts: Sequence[Sequence[int]], classes: Sequence[str], *, title: str
) -> None:
    """Shares of each true class (rows) by predicted class (columns); counts where they fit."""
    table = np.asarray(counts, dtype=float)  # [C, C]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    few = len(classes) <= _NAMED
    side = min(12.0, 3.5 + 0.32 * len(classes)) if few else 8.0
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10)
    if few:
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
    if len(classes) <= 20:
        for (row, column), count in np.ndenumerate(table):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = f"{count:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    save_figure(figure, path)


def project(x: Tensor, *, method: Projection, seed: int) -> Tensor:
    """Features [N, D] laid out in the plane, [N, 2], by neighbourhood alone."""
    data = x.double().numpy()
    if method == "umap":
        umap = need("umap", extra="umap", purpose="--picture umap")
        model = umap.UMAP(
            n_components=2, random_state=seed, n_jobs=1, n_neighbors=min(15, len(x) - 1)
        )
    else:
        from sklearn.manifold import TSNE

        perplexity = max(1.0, min(30.0, (len(x) - 1) / 3))
        model = TSNE(n_components=2, random_state=seed, perplexity=perplexity, init="random")
    return torch.from_numpy(np.asarray(model.fit_transform(data)))


def projection_picture(
    path: Path, points: Tensor, labels: Tensor, classes: Sequence[str], *, title: str
) -> None:
    """Points [N, 2] coloured by class; labels: [N]."""
    plt = pyplot()
    present = sorted(set(labels.tolist()))
    few = len(present) <= _NAMED
    figure, axes = plt.subplots(figsize=(8.6 if few else 6.4, 6), layout="constrained")
    colours = plt.get_cmap("tab20" if len(present) <= 20 else "hsv")
    scale = 20 if len(present) <= 20 else max(1, len(present))
    for i, number in enumerate(present):
        chosen, colour, name = points[labels == number], colours(i / scale), classes[number]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=12, color=colour, label=name, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)
    if few:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7, frameon=False)
    save_figure(figure, path)
