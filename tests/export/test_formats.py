"""What is exported computes, in the library it is for, what the encoder computes here."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import avssl
from avssl.errors import UserError
from avssl.export.command import export
from tests.export.conftest import picture_run

TOLERANCE = 1e-5


def draw(encoder: "avssl.encoders.encoder.Encoder", batch: int) -> dict[str, torch.Tensor]:
    """Inputs as a loader gives them."""
    shapes = {"audio": (1, 64, 32), "video": (3, 4, 32, 32)}
    return {name: torch.randn(batch, *shapes[name]) for name in encoder.inputs}


@pytest.mark.parametrize("module", ["audio", "video", "audio_video"])
def test_safetensors_gives_equal_bits_and_nothing_else(
    mavil: Path, tmp_path: Path, module: str
) -> None:
    assert export(mavil, module=module, kind="safetensors", out=tmp_path / "out") == 0
    encoder = avssl.load(mavil, module=module)
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    again = avssl.load(moved, module=module)
    inputs = draw(encoder, 3)
    layers = list(range(encoder.depth + 1))
    for options in ({}, {"pool": "cls"}, {"layer": layers}):
        assert torch.equal(again.encode(inputs, **options), encoder.encode(inputs, **options))
    assert again.fingerprint == encoder.fingerprint
    wanted = {"audio": {"audio"}, "video": {"video"}}.get(module, {"audio", "video", "fusion"})
    stored = load_file(moved / "model.safetensors")
    assert {key.partition(".")[0] for key in stored} == wanted
    names = {"audio": ["audio"], "video": ["video"]}.get(module, ["audio", "video", "audio_video"])
    assert avssl.load(moved).names == names
    twice = export(moved, module=module, kind="safetensors", out=tmp_path / "twice")
    assert twice == 0


def test_a_frozen_teacher_can_be_exported(mavil: Path, tmp_path: Path) -> None:
    assert export(mavil, module="teacher_audio", kind="safetensors", out=tmp_path / "out") == 0
    first = avssl.load(mavil, module="audio", stage="stage1")
    inputs = draw(first, 2)
    teacher = avssl.load(tmp_path / "out", module="teacher_audio")
    assert torch.equal(teacher.encode(inputs), first.encode(inputs))


def test_timm_loads_a_spectrogram_tower_strictly(mavil: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    out = tmp_path / "out"
    assert export(mavil, module="audio", kind="timm", out=out) <= TOLERANCE
    config = json.loads((out / "config.json").read_text())
    model = timm.models.vision_transformer.VisionTransformer(**config["model_args"])
    model.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    encoder = avssl.load(mavil, module="audio")
    inputs = draw(encoder, 3)
    x = inputs["audio"]
    with torch.no_grad():
        model.eval()
        assert torch.allclose(model(x), encoder.encode(inputs), atol=TOLERANCE)
        tokens = model.forward_features(x)
        assert torch.allclose(tokens[:, 0], encoder.encode(inputs, pool="cls"), atol=TOLERANCE)
        _, layers = model.forward_intermediates(x, output_fmt="NLC")
        wanted = encoder.encode(inputs, layer=[1, 2], pool="none")
        assert torch.allclose(torch.stack(layers), wanted, atol=TOLERANCE)
        whole = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        assert torch.equal(whole(x), model(x))


def test_timm_loads_a_picture_tower_with_a_norm(pictures: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    assert export(pictures, module="video", kind="timm", out=tmp_path / "out") <= TOLERANCE
    encoder = avssl.load(pictures, module="video")
    x = torch.randn(2, 3, 1, 32, 32)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        wanted = encoder.encode({"video": x})
        assert torch.allclose(model(x.squeeze(2)), wanted, atol=TOLERANCE)


@pytest.mark.parametrize("run", ["mavil", "pictures"])
def test_transformers_loads_it_without_missing_keys(
    run: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    transformers = pytest.importorskip("transformers")
    module = {"mavil": "audio", "pictures": "video"}[run]
    folder, out = request.getfixturevalue(run), tmp_path / "out"
    assert export(folder, module=module, kind="hf", out=out) <= TOLERANCE
    model, report = transformers.ViTModel.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    encoder = avssl.load(folder, module=module)
    shape = {"mavil": (2, 1, 64, 32), "pictures": (2, 3, 1, 32, 32)}[run]
    x = torch.randn(shape)
    with torch.no_grad():
        pixels = x.squeeze(2) if x.ndim == 5 else x
        found = model(pixels, output_hidden_states=True)
        cls = encoder.encode({module: x}, pool="cls")
        last = found.hidden_states[-1] if run == "mavil" else found.last_hidden_state
        assert torch.allclose(last[:, 0], cls, atol=TOLERANCE)
        assert torch.allclose(found.pooler_output, found.last_hidden_state[:, 0], atol=TOLERANCE)
    features = json.loads((out / "config.json").read_text())["avssl"]["features"]
    assert features == {"mavil": "hidden_states[-1]", "pictures": "last_hidden_state"}[run]


def test_timm_resizes_as_here(mavil: Path, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    for run, module in ((mavil, "audio"), (pictures, "video")):
        export(run, module=module, kind="timm", out=tmp_path / module)
        config = json.loads((tmp_path / module / "config.json").read_text())
        assert config["pretrained_cfg"]["interpolation"] == "bilinear"


def test_progress_bars_are_shown_again(
    mavil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    bars = transformers.utils.logging
    bars.enable_progress_bar()

    def broken(*_: object, **__: object) -> None:
        assert not bars.is_progress_bar_enabled()
        raise RuntimeError("broken")

    monkeypatch.setattr(transformers.ViTModel, "from_pretrained", broken)
    with pytest.raises(RuntimeError, match="broken"):
        export(mavil, module="audio", kind="hf", out=tmp_path / "out")
    assert bars.is_progress_bar_enabled()


def test_transformers_prepares_sound_as_here(mavil: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export(mavil, module="audio", kind="hf", out=tmp_path / "out")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    model = transformers.ViTModel.from_pretrained(tmp_path / "out")
    encoder = avssl.load(mavil, module="audio")
    wave = torch.randn(round(16000 * encoder.data.window)) / 10
    x = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values[:, None]
    with torch.no_grad():
        tokens = model(x, output_hidden_states=True).hidden_states[-1]
    pooled = tokens[:, 1:].mean(1)
    assert torch.allclose(pooled, encoder(wave, sample_rate=16000), atol=1e-4)


def test_another_eps_of_norms_is_kept(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    run = picture_run(tmp_path, "args.norm_eps=1e-3")
    for kind in ("timm", "hf"):
        capsys.readouterr()
        assert export(run, module="video", kind=kind, out=tmp_path / kind) <= TOLERANCE
        # timm alone builds another model than the one that was exported, and says nothing
        assert ("eps 0.001" in capsys.readouterr().err) == (kind == "timm")
    export(pictures, module="video", kind="timm", out=tmp_path / "usual")
    assert "eps" not in capsys.readouterr().err
    assert (
        "norm_layer=partial(torch.nn.LayerNorm, eps=0.001)"
        in (tmp_path / "timm" / "README.md").read_text()
    )


def first_patches(
    encoder: "avssl.encoders.encoder.Encoder", inputs: dict[str, torch.Tensor]
) -> list[torch.Tensor]:
    """Tokens of each input and their means for inputs that end early: MAViL's tower step by step,
    with the positions that the first patches have in a complete input."""
    tokens = []
    for name, x in inputs.items():
        tower = encoder.towers[name]
        patches = tower.stem(x)
        placed = patches + tower.positions.table[:, : patches.shape[1]]
        tokens.append(tower.encoder(tower.cls(placed)))
    if encoder.fusion is not None:
        fused = encoder.fusion.encoder(torch.cat(tokens, dim=1))
        tokens = list(fused.split([x.shape[1] for x in tokens], dim=1))
    parts = [x[:, 1:] for x in tokens]  # without CLS
    return [*parts, torch.cat([x.mean(1) for x in parts], dim=1)]


def test_onnx_is_held_against_the_encoder_itself(
    mavil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not against the copy that is exported, whose positions are replaced."""
    pytest.importorskip("onnxruntime")
    from avssl.export.onnx_file import FirstPositions

    monkeypatch.setattr(FirstPositions, "forward", lambda self, x, keep=None: x)
    with pytest.raises(UserError, match="differs from the encoder"):
        export(mavil, module="audio", kind="onnx", out=tmp_path / "out")


@pytest.mark.parametrize("module", ["audio", "video", "audio_video"])
def test_onnx_at_other_batch_sizes_and_lengths(mavil: Path, tmp_path: Path, module: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    assert export(mavil, module=module, kind="onnx", out=tmp_path / "out") <= 1e-4
    session = runtime.InferenceSession(tmp_path / "out" / "model.onnx")
    encoder = avssl.load(mavil, module=module)
    assert [item.name for item in session.get_outputs()][-1] == "pooled"
    for batch in (1, 2, 5):
        inputs = draw(encoder, batch)
        feeds = {name: x.numpy() for name, x in inputs.items()}
        found = session.run(None, feeds)
        with torch.no_grad():
            wanted = encoder.encode(inputs)
            tokens = encoder.encode(inputs, pool="none")
        assert torch.allclose(torch.from_numpy(found[-1]), wanted, atol=1e-4)
        parts = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
        for a, b in zip(found[:-1], parts, strict=True):
            assert torch.allclose(torch.from_numpy(a), b, atol=1e-4)
        short = {
            name: x[:, :, : 48 if name == "audio" else 2].contiguous() for name, x in inputs.items()
        }
        found = session.run(None, {name: x.numpy() for name, x in short.items()})
        with torch.no_grad():
            expected = first_patches(encoder, short)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(torch.from_numpy(a), b, atol=1e-4)
        if module == "audio":
            assert found[0].shape == (batch, 3 * 2, 16)  # 48 rows and 32 bins in patches of 16


def test_towers_that_a_library_has_no_model_for(mavil: Path, tmp_path: Path) -> None:
    for module, kind, words in (
        ("video", "timm", "4 pictures in tubelets of 2"),
        ("video", "hf", "4 pictures with a CLS token"),
        ("audio_video", "timm", "joins 2 towers"),
        ("audio_video", "hf", "joins 2 towers"),
    ):
        with pytest.raises(UserError, match=words):
            export(mavil, module=module, kind=kind, out=tmp_path / "out")
        assert not list(tmp_path.iterdir())
