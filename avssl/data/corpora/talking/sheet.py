"""Contact sheet of `talking`: pictures above phones, opening of the mouth and spectrogram."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avssl.data.corpora.drawing import log_mel, write_figure
from avssl.data.corpora.talking.clip import Talk, make_talk
from avssl.data.corpora.talking.picture import FPS, make_picture
from avssl.data.corpora.talking.pose import OPENING

_SHOWN = 16  # pictures of a clip
_STEP = 4  # clips between two that are drawn
_PHONES, _CURVE = 8, 20  # heights, in mel bins, above the spectrogram


def contact_sheet(path: Path, *, seed: int = 0, clips: int = 3) -> None:
    """Write a picture of `clips` of the first training clips."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2 * clips, 1, figsize=(17, 3.1 * clips), height_ratios=[1, 1.6] * clips
    )
    for clip in range(clips):
        talk = make_talk("train", _STEP * clip, seed=seed)
        _draw_pictures(axes[2 * clip], talk)
        _draw_sound(axes[2 * clip + 1], talk)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.97, bottom=0.005, hspace=0.16)
    write_figure(figure, path)


def _draw_pictures(axis: Any, talk: Talk) -> None:
    frames = make_picture(talk.face, talk.pose)
    shown = np.linspace(0, talk.frames - 1, _SHOWN).round().astype(int)
    axis.imshow(np.concatenate(list(frames[shown]), axis=1), aspect="auto")
    axis.set_title(f"{talk.text}   ({talk.voice.name})", fontsize=9, pad=2)
    axis.set_axis_off()


def _draw_sound(axis: Any, talk: Talk) -> None:
    """A picture in the strip above stands for the time below its middle, within half a frame."""
    mel = log_mel(talk.sound)
    bins, seconds = len(mel), talk.frames / FPS
    axis.imshow(mel, origin="lower", aspect="auto", extent=(0, seconds, 0, bins), cmap="magma")
    times = (np.arange(talk.frames) + 0.5) / FPS
    axis.plot(times, bins + _CURVE * talk.pose[:, OPENING], color="tab:blue")
    for phone in talk.phones:
        axis.axvline(phone.start, color="0.6", linewidth=0.5)
        middle = (phone.start + phone.end) / 2
        axis.text(middle, bins + _CURVE + 1, phone.ipa, fontsize=8, ha="center", va="bottom")
    axis.set_xlim(0, seconds)
    axis.set_ylim(0, bins + _CURVE + _PHONES)
    axis.set_axis_off()
