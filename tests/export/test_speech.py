"""S3PRL's upstream gives the tokens that the encoder gives, whatever its patches and its window."""

from pathlib import Path
from typing import Any

import pytest
import torch

import avssl
from avssl.data.features import fbank, fit_frames, normalize
from avssl.errors import UserError
from avssl.export import benchmark_folder
from avssl.export.command import export
from avssl.export.upstream import AvSuperbUpstream, SpeechUpstream
from tests.export.conftest import written

BINS, FRAMES, PATCH = 32, 64, 16
SIZES = {"mel_frames": FRAMES, "mel_bins": BINS}
# name -> graph, window in s, rows of the window's sound, rows from one patch to the next
ENCODERS = {
    "overlapping": ("ast", 0.64, 62, 10),  # AST: 10.24 s are 1022 rows of 1024
    "padded": ("audiomae", 0.6, 58, 16),  # AudioMAE, MAViL, CAV-MAE: 10 s are 998 rows of 1024
    "cut": ("audiomae", 1.0, 64, 16),  # a window with more rows than the encoder reads
}


def folder(path: Path, kind: str, **recipe: Any) -> Path:
    """An encoder folder of one of ENCODERS with random weights."""
    graph, window, *_ = ENCODERS[kind]
    audio = {"type": "fbank", "bins": BINS, "frames": FRAMES, **recipe}
    return written(path / "in", graph, SIZES, window=window, audio=audio)


def tokens(encoder: Any, wave: torch.Tensor, kind: str) -> torch.Tensor:
    """[T, D]: the encoder's tokens of a wave, padded with zeros as it was trained, by time."""
    (recipe,) = encoder.inputs.values()
    bank = fit_frames(fbank(wave[None], sample_rate=16000, bins=BINS), FRAMES)  # [1, T, F]
    bank = normalize(bank, mean=recipe.mean, std=recipe.std)
    with torch.no_grad():
        (x,) = encoder.encode({"audio": bank[:, None]}, pool="none")  # [N, D]
    if kind == "overlapping":  # bins, then time
        return x.unflatten(0, (2, -1)).mean(0)
    return x.unflatten(0, (-1, 2)).mean(1)


@pytest.mark.parametrize("kind", ENCODERS)
def test_steps_are_those_of_the_encoder(kind: str, tmp_path: Path) -> None:
    _, window, rows, stride = ENCODERS[kind]
    path = folder(tmp_path, kind)
    encoder, upstream = avssl.load(path, module="audio"), SpeechUpstream(path)
    assert upstream.get_downsample_rates("hidden_states") == stride * 160
    samples = round(window * 16000)
    steps = 1 + (rows - PATCH) // stride  # of a window that its sound fills
    wave = torch.randn(samples) / 10
    with torch.no_grad():
        (found,) = upstream([wave])["last_hidden_state"]
        assert torch.allclose(found[:steps], tokens(encoder, wave, kind)[:steps], atol=1e-4)
        wave = torch.randn(2 * samples + 3000) / 10
        (found,) = upstream([wave])["last_hidden_state"]
    wanted = tokens(encoder, wave[:samples], kind)[:steps]
    assert torch.allclose(found[:steps], wanted, atol=1e-4)
    second = wave[steps * stride * 160 :][:samples]  # begins where the steps of the first end
    wanted = tokens(encoder, second, kind)[:steps]
    assert torch.allclose(found[steps : 2 * steps], wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("short", ["repeat", "pad"])
def test_waves_of_any_length(kind: str, short: str, tmp_path: Path) -> None:
    """The last steps are those of the window that ends with the wave."""
    path = folder(tmp_path, kind, short=short)
    encoder, upstream = avssl.load(path, module="audio"), SpeechUpstream(path)
    rate = upstream.get_downsample_rates("hidden_states")
    _, window, rows, stride = ENCODERS[kind]
    samples, steps = round(window * 16000), 1 + (rows - PATCH) // stride
    lengths = [0, 1, 399, 400, *range(3000, 60000, 1700), 10 * samples]
    waves = [torch.randn(length) / 10 for length in lengths]
    with torch.no_grad():
        states = upstream(waves)["hidden_states"]
        for row, wave in enumerate(waves):
            count = max(1, 1 + ((len(wave) - 400) // 160 + 1 - PATCH) // stride)
            assert abs(count - len(wave) / rate) <= 2
            assert not states[-1][row, count:].any()
            begin = max(0, count - steps) * rate  # of the window that ends with the wave
            if len(wave) < 400:
                continue
            layers = [0, 1, 2]
            (wanted,) = encoder(
                wave[begin : begin + samples], sample_rate=16000, layer=layers, pool="none"
            )
            wanted = upstream.grid.mean(wanted)[:, : min(steps, count)]  # [L, T, D]
            own = count - (count - 1) // steps * steps  # windows before it have the others
            found = torch.stack([x[row, count - own : count] for x in states[:3]])
            assert torch.allclose(found, wanted[:, -own:], atol=1e-4)


@pytest.mark.parametrize("kind", ENCODERS)
def test_export_checks_the_speech_half(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path, kind)
    assert export(path, module="audio", kind="avsuperb", out=tmp_path / "out") <= 1e-5
    assert "_speech(" in (tmp_path / "out" / "hubconf.py").read_text()
    assert "has zeros behind it" not in (tmp_path / "out" / "card.md").read_text()

    class Wrong(SpeechUpstream):
        def forward(self, wavs: Any) -> dict[str, Any]:
            states = super().forward(wavs)["hidden_states"]
            return {"hidden_states": [x.roll(1, dims=1) for x in states]}

    monkeypatch.setattr(benchmark_folder, "SpeechUpstream", Wrong)
    with pytest.raises(UserError, match="differs from the encoder"):
        export(path, module="audio", kind="avsuperb", out=tmp_path / "wrong")


def test_sound_at_another_rate_is_not_for_s3prl(tmp_path: Path) -> None:
    path = folder(tmp_path, "padded", sample_rate=32000, short="pad")
    assert export(path, module="audio", kind="avsuperb", out=tmp_path / "out") <= 1e-5
    assert "audio shorter than that has zeros" in (tmp_path / "out" / "card.md").read_text()
    assert "_speech(" not in (tmp_path / "out" / "hubconf.py").read_text()
    with pytest.raises(UserError, match="no encoder that reads 16 kHz sound alone"):
        SpeechUpstream(path)


def test_arguments_that_an_upstream_does_not_know(tmp_path: Path) -> None:
    path = folder(tmp_path, "padded")
    for upstream in (AvSuperbUpstream, SpeechUpstream):
        # as the runners of both benchmarks call it
        upstream(ckpt=path, model_config=None, refresh=False)
        with pytest.raises(TypeError, match="normalise"):
            upstream(path, normalise=True)
        with pytest.raises(UserError, match=r"model_config='base\.yaml'"):
            upstream(path, model_config="base.yaml")


def test_sound_without_a_rate(tmp_path: Path) -> None:
    upstream = AvSuperbUpstream(folder(tmp_path, "padded"))
    wave = torch.randn(16000) / 10
    for rate in (None, 0):
        with pytest.raises(UserError, match="16000 samples has no audio_sample_rate"):
            upstream.preprocess_audio(wave, rate)
        assert upstream.preprocess_audio(wave[:0], rate).shape == (1, 1, FRAMES, BINS)
