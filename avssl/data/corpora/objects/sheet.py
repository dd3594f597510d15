"""Contact sheet of `objects`: for each kind the first picture of some clips, and one whole clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avssl.data.corpora.drawing import write_figure
from avssl.data.corpora.objects.picture import FRAMES, make_moving, make_picture
from avssl.data.corpora.objects.silhouettes import SILHOUETTES


def contact_sheet(path: Path, *, seed: int = 0, stills: int = 6, shown: int = 6) -> None:
    """Write a picture of `stills` training clips of each kind and `shown` frames of another."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = len(SILHOUETTES)
    figure, axes = pyplot.subplots(kinds, 2, figsize=(14, 1.18 * kinds))
    for label, (left, right) in enumerate(axes):
        clips = [make_moving("train", label + kinds * k, seed=seed) for k in range(1, stills + 1)]
        left.imshow(np.concatenate([make_picture(clip)[0] for clip in clips], axis=1))
        moving = make_moving("train", label + kinds * (1 + label % 9), seed=seed)
        times = np.linspace(0, FRAMES - 1, shown).round().astype(int)
        right.imshow(np.concatenate(list(make_picture(moving)[times]), axis=1))
        left.set_title(moving.kind, fontsize=9, pad=2)
        right.set_title(moving.motion, fontsize=9, pad=2)
        left.set_axis_off()
        right.set_axis_off()
    figure.subplots_adjust(left=0.005, right=0.995, top=0.98, bottom=0.005, hspace=0.2, wspace=0.02)
    write_figure(figure, path)
