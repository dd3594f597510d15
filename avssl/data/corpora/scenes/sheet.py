"""Contact sheet of `scenes`: per class, frames over time above the log-mel spectrogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avssl.data.corpora.drawing import log_mel, write_figure
from avssl.data.corpora.scenes.picture import make_picture
from avssl.data.corpora.scenes.scene import CLASSES, FRAMES, SECONDS, make_scene
from avssl.data.corpora.scenes.sound import make_sound


def contact_sheet(path: Path, *, seed: int = 0, columns: int = 2, shown: int = 12) -> None:
    """Write a picture of `columns` training clips of each class, `shown` frames of each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    step = FRAMES // shown
    figure, axes = pyplot.subplots(
        len(CLASSES) * 2,
        columns,
        figsize=(7.2 * columns, 1.75 * len(CLASSES)),
        height_ratios=[1, 1.3] * len(CLASSES),
    )
    for label in range(len(CLASSES)):
        for column in range(columns):
            scene = make_scene("train", label + column * len(CLASSES), seed=seed)
            frames = make_picture(scene)[::step]
            top, below = axes[2 * label, column], axes[2 * label + 1, column]
            top.imshow(
                np.concatenate(list(frames), axis=1), extent=(0, SECONDS, 0, SECONDS / shown)
            )
            top.set_title(scene.text, fontsize=9, pad=2)
            below.imshow(
                log_mel(make_sound(scene)),
                origin="lower",
                aspect="auto",
                extent=(0, SECONDS, 0, 64),
                cmap="magma",
            )
            for axis in (top, below):
                axis.set_axis_off()
    figure.subplots_adjust(
        left=0.005, right=0.995, top=0.985, bottom=0.005, hspace=0.3, wspace=0.02
    )
    write_figure(figure, path)
