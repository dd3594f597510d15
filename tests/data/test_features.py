"""Filterbanks against Kaldi's, as torchaudio has them.

Letters: B batch, N samples, T rows, F mel bins.
"""

import pytest
import torch
import torchaudio

from avssl.data.features import fbank, fit_frames, normalize


def sounds(count: int = 32000) -> torch.Tensor:
    """Noise, a sweep with an offset, faint noise, silence: float32 [4, N]."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(count) / 16000
    noise = torch.randn(count, generator=generator)
    sweep = 0.5 * torch.sin(2 * torch.pi * (100 + 1500 * time) * time) + 0.2
    return torch.stack([0.1 * noise, sweep, 1e-4 * noise, 0 * noise])


@pytest.mark.parametrize("bins", [64, 80, 128])
def test_equals_torchaudio(bins: int) -> None:
    waveform = sounds()
    ours = fbank(waveform, sample_rate=16000, bins=bins)  # [4, T, F]
    for sound, features in zip(waveform, ours, strict=True):
        # in fp64, since both have rounding errors of 1e-3 where a bin is nearly empty
        reference = torchaudio.compliance.kaldi.fbank(
            (sound - sound.mean())[None].double(),
            htk_compat=True,
            sample_frequency=16000,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=bins,
            dither=0.0,
            frame_shift=10,
        )
        # a pure tone leaves bins 1e-10 below it: there rounding is larger than the energy
        audible = reference > reference.max() - 18
        assert features.shape == reference.shape == (198, bins)
        assert (features - reference)[audible].abs().max() < 1e-3


def test_the_mean_of_the_waveform_does_not_matter() -> None:
    waveform = sounds()[:1]
    shifted = fbank(waveform + 0.25, sample_rate=16000, bins=64)
    torch.testing.assert_close(
        shifted, fbank(waveform, sample_rate=16000, bins=64), atol=2e-2, rtol=0
    )


def test_rows_of_a_batch_are_independent() -> None:
    together = fbank(sounds(), sample_rate=16000, bins=64)
    alone = fbank(sounds()[1:2], sample_rate=16000, bins=64)
    assert torch.equal(together[1:2], alone)


def test_padded_before_normalised_and_cut() -> None:
    features = fbank(sounds(), sample_rate=16000, bins=64)
    padded = normalize(fit_frames(features, 208), mean=-4.0, std=4.5)
    assert padded.shape == (4, 208, 64)
    assert torch.all(padded[:, 198:] == 4.0 / 9.0)
    assert torch.equal(fit_frames(features, 100), features[:, :100])
