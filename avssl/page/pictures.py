"""What the page draws of a clip: the spectrogram of its sound, and some of its pictures.

Letters: N samples, T frames (10 ms), F mel bins, K pictures, H W height and width.
"""

import io
from collections.abc import Sequence

import numpy as np

SAMPLE_RATE = 16000  # Hz, of the sound drawn
_BINS = 80
_COLUMNS = 640  # at most, in a spectrogram's picture
_RANGE = 9.0  # natural units of log energy from black to white, 39 dB
_COLORS = [(0, 0, 4), (80, 18, 123), (183, 55, 121), (251, 136, 97), (252, 253, 191)]
_SILENCE = -12.0  # log energy below which nothing is drawn, however quiet the clip


def spectrogram(sound: np.ndarray) -> bytes:
    """The log-mel spectrogram of a sound [N] at 16 kHz as a PNG, low tones at the bottom."""
    import torch
    import torch.nn.functional as F
    from PIL import Image

    from avssl.data.features import fbank

    waveform = torch.from_numpy(np.ascontiguousarray(sound, np.float32))[None]  # [1, N]
    waveform = F.pad(waveform, (0, max(0, SAMPLE_RATE // 20 - waveform.shape[1])))
    energy = fbank(waveform, sample_rate=SAMPLE_RATE, bins=_BINS).transpose(1, 2)  # [1, F, T]
    energy = F.adaptive_avg_pool1d(energy, min(_COLUMNS, energy.shape[2]))[0]  # [F, T']
    top = max(float(energy.max()), _SILENCE + _RANGE)
    level = ((energy - top + _RANGE) / _RANGE).clamp(0, 1).flip(0)  # [F, T']
    image = Image.fromarray((level * 255).round().byte().numpy(), mode="P")
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def jpeg(picture: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] as a JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return file.getvalue()


def moments(start: float, end: float, count: int) -> Sequence[float]:
    """Times in the middle of `count` equal parts of a stretch, in s."""
    return [start + (end - start) * (k + 0.5) / count for k in range(count)]


def _palette() -> bytes:
    """256 colors from black over purple and orange to pale yellow, as page.js has them."""
    stops = np.array(_COLORS)  # [5, 3]
    at = np.linspace(0, len(stops) - 1, 256)
    colors = [np.interp(at, np.arange(len(stops)), channel) for channel in stops.T]
    return np.stack(colors, axis=1).round().astype(np.uint8).tobytes()
