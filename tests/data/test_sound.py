"""Sound at any rate: what the resampler gives, and what it costs.

Letters: N samples.
"""

import math
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from avssl.data import sound
from avssl.data.container import MediaError

WANTED = 16000


def sine(rate: int, seconds: float) -> torch.Tensor:
    """440 Hz, float32 [N]."""
    times = torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * 440 * times).float()


@pytest.mark.parametrize("rate", [47999, 16001, 15999])
def test_rates_without_a_common_divisor_are_quick_and_small(rate: int) -> None:
    wave = sine(rate, 3.0)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = sound.resampler(rate, WANTED)(wave)  # [N]
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert found.shape == (WANTED * 3,) and found.dtype == torch.float32
    inside = slice(100, -100)
    torch.testing.assert_close(found[inside], sine(WANTED, 3.0)[inside], atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [44100, 8000, 22050, 192000])
def test_both_ways_give_the_same(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = torch.randn(2, rate // 4 + 3, generator=torch.Generator().manual_seed(0))  # [2, N]
    table = sound.resampler.__wrapped__(rate, WANTED)(wave)
    monkeypatch.setattr(sound, "_PHASES", 0)
    formula = sound.resampler.__wrapped__(rate, WANTED)(wave)
    assert table.shape == formula.shape
    # the table is worked out in single precision
    torch.testing.assert_close(formula, table, atol=1e-4, rtol=0)


def test_stretches_of_a_file_with_such_a_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.5 * sine(47999, 3.0).numpy(), 47999, subtype="FLOAT")
    wanted = 0.5 * sine(WANTED, 3.0).numpy()  # [N]
    for first, count in ((1000, 16000), (20001, 7), (32000, 15000)):
        part = sound.read_sound(
            tmp_path / "a.wav", start=first / WANTED, seconds=count / WANTED, sample_rate=WANTED
        )
        np.testing.assert_allclose(part, wanted[first : first + count], atol=1e-3)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001])
def test_a_rate_that_does_not_occur_is_told(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(2000, np.float32), rate)
    with pytest.raises(MediaError, match=f"{rate} samples a second"):
        sound.read_sound(tmp_path / "a.wav", start=0.0, seconds=1.0, sample_rate=WANTED)


def test_samples_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    samples = sine(WANTED, 1.0).numpy()
    samples[100] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, WANTED, subtype="FLOAT")
    with pytest.raises(MediaError, match="no numbers"):
        sound.read_sound(tmp_path / "a.wav", start=0.0, seconds=0.5, sample_rate=8000)
