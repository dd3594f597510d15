"""An exported folder serves AV-SUPERB and S3PRL the way they call an upstream model."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import avssl
from avssl.export.command import export


@pytest.fixture(scope="module")
def folder(mavil: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of both towers and their fusion."""
    out = tmp_path_factory.mktemp("benchmarks") / "mavil"
    assert export(mavil, module="audio_video", kind="avsuperb", out=out) <= 1e-5
    return out


@pytest.fixture(autouse=True)
def fresh_modules() -> Iterator[None]:
    """torch.hub leaves hubconf in sys.modules."""
    yield
    sys.modules.pop("hubconf", None)


def pair(upstream: torch.nn.Module, seconds: float, rate: int, fps: float) -> tuple:
    """A clip as AV-SUPERB's data sets prepare it: stereo sound, pictures [T, C, H, W]."""
    generator = torch.Generator().manual_seed(int(seconds * 10))
    wave = torch.randn(2, int(seconds * rate), generator=generator) / 10
    shape = (int(seconds * fps), 3, 48, 64)
    pictures = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    audio = upstream.preprocess_audio(wave, rate)
    return audio, upstream.preprocess_video(pictures, fps), wave, pictures


def test_av_superb(folder: Path, mavil: Path) -> None:
    upstream = torch.hub.load(str(folder), "tiny_mavil_audio_video", source="local")
    clips = [
        pair(upstream, *clip) for clip in ((0.4, 16000, 16), (3.1, 44100, 25), (9.0, 8000, 30))
    ]
    # the benchmark's runner makes everything float
    features = upstream([(audio.float(), video.float()) for audio, video, *_ in clips])
    av = avssl.load(mavil)
    for key, width in (("audio_feats", 16), ("video_feats", 16), ("fusion_feats", 32)):
        depth = {"fusion_feats": 1}.get(key, 2)
        assert [tuple(x.shape) for x in features[key]] == [(3, 1, width)] * (depth + 1)
    for row, ((_, _, wave, pictures), rate, fps) in enumerate(
        zip(clips, (16000, 44100, 8000), (16, 25, 30), strict=True)
    ):
        # one clip at a time: the neighbours in a batch change nothing
        alone = upstream([clips[row][:2]])
        for key, states in features.items():
            for found, single in zip(states, alone[key], strict=True):
                assert torch.allclose(found[row, : single.shape[1]], single[0], atol=1e-5)
        sound = av.audio(wave.mean(0), sample_rate=rate, layer=[0, 1, 2])[:, 0]
        seen = av.video(pictures.permute(0, 2, 3, 1), fps=fps, layer=[0, 1, 2])[:, 0]
        assert torch.allclose(torch.stack(features["audio_feats"])[:, row, 0], sound, atol=1e-5)
        assert torch.allclose(torch.stack(features["video_feats"])[:, row, 0], seen, atol=1e-5)


def test_av_superb_weighs_layers_and_trains_them(folder: Path) -> None:
    upstream = torch.hub.load(str(folder), "tiny_mavil_audio_video", source="local")
    names = [name for name, _ in upstream.named_parameters()]
    encoders = avssl.load(folder / "encoder")
    own = sum(1 for _ in encoders["audio_video"].parameters())
    assert len(names) == own  # towers are there once
    audio, video, *_ = pair(upstream, 2.0, 16000, 16)
    upstream.train()
    features = upstream([(audio, video)])["fusion_feats"]
    torch.stack(features).mean(0).square().sum().backward()
    assert all(parameter.grad is not None for parameter in upstream.parameters())


def test_clips_without_sound_or_colour(folder: Path) -> None:
    upstream = torch.hub.load(str(folder), "tiny_mavil_audio_video", source="local")
    silent = upstream.preprocess_audio(torch.zeros(1, 0), None)
    grey = upstream.preprocess_video(torch.full((3, 1, 40, 40), 7, dtype=torch.uint8), 25)
    assert silent.shape == (1, 1, 64, 32)
    assert torch.allclose(grey[:, 0] * 0.229 + 0.485, torch.tensor(7 / 255), atol=1e-5)
    features = upstream([(silent, grey)])
    assert all(x.isfinite().all() for states in features.values() for x in states)


def test_one_tower_alone(mavil: Path, tmp_path: Path) -> None:
    for module, key in (("audio", "audio_feats"), ("video", "video_feats")):
        out = tmp_path / module
        export(mavil, module=module, kind="avsuperb", out=out)
        upstream = torch.hub.load(str(out), f"tiny_mavil_{module}", source="local")
        audio, video, *_ = pair(upstream, 1.0, 16000, 16)
        assert set(upstream([(audio, video)])) == {key, key.replace("_feats", "_seq_feats")}
        sys.modules.pop("hubconf", None)


def test_two_exports_in_one_process_do_not_mix(mavil: Path, folder: Path, tmp_path: Path) -> None:
    export(mavil, module="teacher_audio", kind="avsuperb", out=tmp_path / "teacher")
    wave = torch.randn(16000) / 10
    found = []
    for path, name in ((folder, "tiny_mavil_audio_video"), (tmp_path / "teacher", "")):
        name = name or "tiny_mavil_teacher_audio"
        upstream = torch.hub.load(str(path), f"{name}_speech", source="local")
        found.append(upstream([wave])["last_hidden_state"])
    assert not torch.allclose(*found, atol=1e-3)


def test_s3prl(folder: Path) -> None:
    upstream = torch.hub.load(str(folder), "tiny_mavil_audio_video_speech", source="local")
    rate = upstream.get_downsample_rates("hidden_states")
    assert rate == 16 * 160  # patches of 16 rows of 10 ms
    lengths = [16000, 400, 50000, 3000, 10240 + 240, 160000]
    waves = [torch.randn(length) / 10 for length in lengths]
    result = upstream(waves)
    states = result["hidden_states"]
    assert len(states) == 3 and torch.equal(states[-1], result["last_hidden_state"])
    for row, wave in enumerate(waves):
        steps = len(wave) / rate
        alone = upstream([wave])["hidden_states"][-1][0]
        assert abs(len(alone) - max(steps, 1)) <= 1
        assert torch.allclose(states[-1][row, : len(alone)], alone, atol=1e-5)
        assert not states[-1][row, len(alone) :].any()


def test_s3prl_steps_are_those_of_the_encoder(folder: Path, mavil: Path) -> None:
    """Of a wave that fills one window exactly, and of the second of two in a row."""
    from avssl.data.batches import stack_inputs

    upstream = torch.hub.load(str(folder), "tiny_mavil_audio_video_speech", source="local")
    encoder = avssl.load(mavil, module="audio")
    wave = torch.randn(64 * 160 + 240) / 10  # 64 rows of 10 ms
    batch = stack_inputs([{"audio": wave.numpy()}], encoder.inputs)
    tokens = encoder.encode(batch, pool="none")  # [1, 4 * 2, D]
    wanted = tokens.unflatten(1, (4, 2)).mean(2)[0]  # [4, D]: 64 rows and 32 bins in patches of 16
    assert torch.allclose(upstream([wave])["last_hidden_state"][0], wanted, atol=1e-4)
    longer = torch.cat([torch.randn(64 * 160) / 10, wave])
    found = upstream([longer])["last_hidden_state"][0]
    assert found.shape[0] == 8
    assert torch.allclose(found[4:], wanted, atol=1e-2)  # the mean of the wave is another one
