"""Encoders of other projects' layouts go back to the library that they came from."""

import json
from pathlib import Path

import pytest
import torch

import avssl
from avssl.errors import UserError
from avssl.export.command import export
from tests.export.conftest import written

FRAMES = {"type": "frames", "size": 32}
PICTURE = {**FRAMES, "frames": 1, "seconds": 0.04}
FBANK = {"type": "fbank", "bins": 32, "frames": 64}


LAYOUTS = {
    "vit": ("image", "image", {"image": 32, "norm_eps": 1e-12}, {"video": PICTURE}),
    "vit_unnormed": ("image", "image", {"image": 32, "norm": "none"}, {"video": PICTURE}),
    "ast": (
        "ast", "audio", {"mel_frames": 64, "mel_bins": 32, "norm_eps": 1e-12}, {"audio": FBANK},
    ),
    "videomae": (
        "clip", "video", {"image": 32, "frames": 4}, {"video": {**FRAMES, "frames": 4}},
    ),
    "videomae_unnormed": (
        "clip", "video", {"image": 32, "frames": 4, "norm": "none"},
        {"video": {**FRAMES, "frames": 4}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hf(layout: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    graph, module, args, inputs = LAYOUTS[layout]
    folder = written(tmp_path / "in", graph, args, **inputs)
    assert export(folder, module=module, kind="hf", out=tmp_path / "out") <= 1e-5
    wanted = {"vit": "ViTModel", "ast": "ASTModel", "videomae": "VideoMAEModel"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [wanted[layout.partition("_")[0]]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_every_encoder_can_become(layout: str, tmp_path: Path) -> None:
    graph, module, args, inputs = LAYOUTS[layout]
    folder = written(tmp_path / "in", graph, args, **inputs)
    assert export(folder, module=module, kind="safetensors", out=tmp_path / "copy") == 0
    first, copy = (avssl.load(path, module=module) for path in (folder, tmp_path / "copy"))
    assert first.fingerprint == copy.fingerprint
    assert export(folder, module=module, kind="avsuperb", out=tmp_path / "bench") <= 1e-5


def test_cavmae_with_its_shared_block(tmp_path: Path) -> None:
    args = {"depth": 1, "mel_frames": 64, "mel_bins": 32, "image": 32}
    folder = written(tmp_path / "in", "cavmae", args, audio=FBANK, video=PICTURE)
    name = avssl.load(folder).names[-1]
    assert export(folder, module=name, kind="safetensors", out=tmp_path / "copy") == 0
    assert export(folder, module=name, kind="avsuperb", out=tmp_path / "bench") <= 1e-5
    with pytest.raises(UserError, match="AddVector"):
        export(folder, module="audio", kind="hf", out=tmp_path / "hf")


@pytest.mark.parametrize("layout", ["ast", "vit"])
def test_onnx(layout: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    graph, module, args, inputs = LAYOUTS[layout]
    folder = written(tmp_path / "in", graph, args, **inputs)
    assert export(folder, module=module, kind="onnx", out=tmp_path / "out") <= 1e-4


@pytest.mark.parametrize("prefix", [0, 1])
def test_timm_with_and_without_cls(prefix: int, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    args = {"image": 32, "norm_eps": 1e-12, "prefix": prefix}
    folder = written(tmp_path / "in", "image", args, video=PICTURE)
    assert export(folder, module="image", kind="timm", out=tmp_path / "out") <= 1e-5


def test_tokens_that_timm_does_not_know(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", "image", {"image": 32, "prefix": 2}, video=PICTURE)
    with pytest.raises(UserError, match="2 tokens in front"):
        export(folder, module="image", kind="timm", out=tmp_path / "out")


@pytest.mark.parametrize("kind", ["ViT", "AST", "VideoMAE"])
def test_there_and_back_through_transformers(kind: str, tmp_path: Path) -> None:
    """A model that transformers saved, loaded here, and exported again is the same model there."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "theirs")
    (module,) = avssl.load(tmp_path / "theirs").names
    worst = export(tmp_path / "theirs", module=module, kind="hf", out=tmp_path / "back")
    assert worst <= 1e-5
    again = type(model).from_pretrained(tmp_path / "back")
    shapes = {"ViT": (3, 224, 224), "AST": (1024, 128), "VideoMAE": (16, 3, 224, 224)}
    x = torch.randn(1, *shapes[kind])
    with torch.no_grad():
        found, wanted = again(x).last_hidden_state, model(x).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-5)
    copy = tmp_path / "copy"
    assert export(tmp_path / "theirs", module=module, kind="safetensors", out=copy) == 0
    first, second = (avssl.load(path, module=module) for path in (tmp_path / "theirs", copy))
    assert first.fingerprint == second.fingerprint
