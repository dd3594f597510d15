"""Encoders of clips that keep their own length, exported."""

from pathlib import Path

import pytest
import torch

import avssl
from avssl.data.length_config import REAL
from avssl.errors import UserError
from avssl.export.command import export
from tests.encoders.tiny_raven import write_raven


@pytest.fixture(scope="module")
def raven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raven(tmp_path_factory.mktemp("raven"))


def clips(module: str, batch: int, frames: int) -> torch.Tensor:
    shape = (batch, 1, frames, 32, 32) if module == "video" else (batch, frames, 640)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("module", ["audio", "video"])
def test_folder_gives_the_same_features_of_padded_clips(
    raven: Path, tmp_path: Path, module: str
) -> None:
    assert export(raven, module=module, kind="safetensors", out=tmp_path / "out") == 0
    loaded, encoder = avssl.load(tmp_path / "out", module=module), avssl.load(raven, module=module)
    x = clips(module, 2, 20)
    real = torch.cat([torch.arange(20), 20 + torch.arange(7)])
    with torch.no_grad():
        found = loaded.encode({module: x, REAL: real}, pool="none")
        assert torch.equal(found, encoder.encode({module: x, REAL: real}, pool="none"))
        assert not found[1, 7:].any()
        assert not torch.equal(found, loaded.encode({module: x}, pool="none"))
    card = (tmp_path / "out" / "card.md").read_text()
    assert "Clips keep their own length" in card
    assert ("16000 Hz" if module == "audio" else "their centre of 32") in card


@pytest.mark.parametrize("module", ["audio", "video"])
def test_onnx_takes_any_number_of_clips_and_frames(
    raven: Path, tmp_path: Path, module: str
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    worst = export(raven, module=module, kind="onnx", out=tmp_path / "out")
    assert worst is not None and worst <= 1e-4
    session = runtime.InferenceSession(tmp_path / "out" / "model.onnx")
    encoder = avssl.load(raven, module=module)
    for batch, frames in ((1, 2), (3, 40), (5, 25)):
        x = clips(module, batch, frames)
        tokens, pooled = session.run(None, {module: x.numpy()})
        assert tokens.shape == (batch, frames, 16)
        with torch.no_grad():
            wanted = encoder.encode({module: x}, pool="none")
        assert torch.allclose(torch.from_numpy(tokens), wanted, atol=1e-4)
        assert torch.allclose(torch.from_numpy(pooled), wanted.mean(1), atol=1e-4)
    assert "any number of frames" in (tmp_path / "out" / "card.md").read_text()


@pytest.mark.parametrize("kind", ["timm", "hf", "avsuperb"])
def test_formats_of_fixed_windows_are_refused(raven: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"no patch embedding|keep their own length"):
        export(raven, module="video", kind=kind, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
