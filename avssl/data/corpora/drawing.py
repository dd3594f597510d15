"""What the contact sheets of all corpora need: spectrograms, and small files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avssl.data.corpora.files import SAMPLE_RATE


def write_figure(figure: Any, path: Path) -> None:
    """Store a matplotlib figure as png with 192 colours: a third of the size."""
    from matplotlib import pyplot
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=72)
    pyplot.close(figure)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(192, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def log_mel(sound: np.ndarray, bins: int = 64) -> np.ndarray:
    """[bins, frames] in nepers, from a 25 ms Hann window every 10 ms."""
    import torch
    import torchaudio

    window, hop = SAMPLE_RATE // 40, SAMPLE_RATE // 100
    mel = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE, n_fft=512, win_length=window, hop_length=hop, n_mels=bins
    )(torch.from_numpy(sound))
    return np.maximum(mel.clamp_min(1e-6).log().numpy(), -9)
