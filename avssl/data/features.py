"""Kaldi-compatible log-mel filterbanks of a batch of waveforms.

Letters: B batch, N samples, T frames (rows of 10 ms), F mel bins, S samples of a 25 ms frame.

The same numbers as `torchaudio.compliance.kaldi.fbank(window_type="hanning", htk_compat=True,
use_energy=False, dither=0)`, which takes one waveform a call and recomputes its tables every time.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

_PREEMPHASIS = 0.97
_LOWEST = 20.0  # Hz, lower end of the first mel filter; the last ends at half the sample rate


def fbank(waveform: Tensor, *, sample_rate: int, bins: int) -> Tensor:
    """Log-mel energies of mean-removed waveforms.

    Args:
        waveform: float [B, N] in [-1, 1] on the CPU, at least 25 ms long; its mean is removed here.
        sample_rate: Hz.
        bins: mel filters F.

    Returns:
        float32 [B, T, F] with T = 1 + (N - S) // shift (frames that do not fit are dropped).
    """
    length, shift = int(sample_rate * 0.025), int(sample_rate * 0.010)
    padded = 1 << (length - 1).bit_length()
    window, filters = _tables(sample_rate, bins, length, padded)
    waveform = waveform.float() - waveform.float().mean(1, keepdim=True)  # [B, N]
    count = 1 + (waveform.shape[1] - length) // shift
    result = torch.empty(len(waveform), count, bins)  # [B, T, F]
    buffer = torch.zeros(count, padded)
    emphasized = buffer[:, :length]  # [T, S]
    for row, sound in zip(result, waveform, strict=True):  # one by one: stays in the cache
        frames = sound.unfold(0, length, shift)  # [T, S], a view
        frames = frames - frames.mean(1, keepdim=True)  # [T, S]
        # pre-emphasis; the sample before the first one counts as equal to it
        torch.sub(frames[:, 1:], frames[:, :-1], alpha=_PREEMPHASIS, out=emphasized[:, 1:])
        torch.mul(frames[:, 0], 1 - _PREEMPHASIS, out=emphasized[:, 0])
        emphasized *= window
        spectrum = torch.fft.rfft(buffer)  # [T, padded / 2 + 1]
        power = spectrum.real.square() + spectrum.imag.square()
        torch.mm(power, filters, out=row)
    return result.clamp_(min=torch.finfo(torch.float32).eps).log_()


def fit_frames(features: Tensor, frames: int) -> Tensor:
    """[B, T, F] -> [B, frames, F]: zeros behind, or cut (AudioMAE pads before it normalises)."""
    missing = frames - features.shape[1]
    return F.pad(features, (0, 0, 0, missing)) if missing > 0 else features[:, :frames]


def normalize(features: Tensor, *, mean: float, std: float) -> Tensor:
    """(x - mean) / (2 std): AudioMAE's and MAViL's divisor is twice the deviation."""
    return (features - mean) / (2 * std)


@functools.lru_cache(maxsize=8)
def _tables(sample_rate: int, bins: int, length: int, padded: int) -> tuple[Tensor, Tensor]:
    """Hanning window [S] and mel filters [padded / 2 + 1, F]; in fp32, as Kaldi makes them."""

    def mel(frequency: float) -> float:
        return 1127.0 * math.log(1.0 + frequency / 700.0)

    low, high = mel(_LOWEST), mel(sample_rate / 2)
    step = (high - low) / (bins + 1)
    number = torch.arange(bins)
    left, center, right = (low + (number + k) * step for k in range(3))  # [F] each, in mel
    frequency = sample_rate / padded * torch.arange(padded // 2)
    bin_mel = (1127.0 * (1.0 + frequency / 700.0).log())[:, None]  # [padded / 2, 1]
    rising, falling = (bin_mel - left) / (center - left), (right - bin_mel) / (right - center)
    filters = torch.minimum(rising, falling).clamp(min=0)  # [padded / 2, F]
    # Kaldi leaves the last bin, half the sample rate, out
    return torch.hann_window(length, periodic=False), F.pad(filters, (0, 0, 0, 1))
