"""The graph of a run comes back with its weights, ready to encode."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avssl.encoders.model import load_graph
from avssl.errors import UserError
from avssl.train.run import train
from tests.train import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avssl.train.clips.open_clips", tiny.TinyClips)
        train(tiny.write(path), ["train.device=cpu"])
    return path / "run"


def stored(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints" / stage).glob("step-*"))
    return load_file(newest / "model.safetensors")


@pytest.mark.parametrize(("stage", "found"), [(None, "second.2"), ("first", "first")])
def test_weights_are_those_of_the_checkpoint(folder: Path, stage: str | None, found: str) -> None:
    graph = load_graph(folder, stage=stage)
    weights = stored(folder, found)
    assert set(graph.state_dict()) == set(weights)
    assert all(torch.equal(value, weights[key]) for key, value in graph.state_dict().items())
    assert not any(module.training for module in graph.modules())
    x = torch.randn(2, 1, 32, 32)
    out = graph.get_submodule("audio")(x=x)
    assert out["pooled"].shape == (2, 16)
    assert torch.equal(out["pooled"], graph.get_submodule("audio")(x=x)["pooled"])


def test_a_moved_run_loads(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    try:
        monkeypatch.chdir(tmp_path)
        assert set(load_graph("elsewhere").state_dict()) == set(stored(moved, "second.2"))
    finally:
        moved.rename(folder)


def test_mistakes_are_sentences(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its stages are first, second, second\.2$"):
        load_graph(folder, stage="third")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        load_graph(tmp_path)
