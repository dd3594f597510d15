"""Nothing is lost or made up in silence, and no file is executed: every misfit is one sentence."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from avssl.errors import UserError
from avssl.weights.foreign import read_foreign
from tests.weights.plain import randomise, save

SIZES = {"heads": 3}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3)
    return randomise(model).state_dict()


def problem(path: Path, **how: object) -> str:
    with pytest.raises(UserError) as caught:
        read_foreign(path, **{"sizes": SIZES, **how})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: item for name, item in state.items() if name not in names}


def test_the_report_counts(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(tmp_path, {"model": state})
    assert read_foreign(path, sizes=SIZES).report == [
        "weights.pth: layout timm_vit",
        "loaded 30/30 tensors into image",
        "left out, as the layout says: head.* 2",
    ]


def test_missing_tensors_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    gone = ("blocks.1.norm1.bias", "norm.weight")
    found = problem(save(tmp_path, without(state, *gone)))
    assert "2 tensors are missing: blocks.1.norm1.bias, norm.weight." in found


def test_missing_tensors_that_are_allowed_start_anew(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = save(tmp_path, without(state, "blocks.1.norm1.weight"))
    foreign = read_foreign(path, sizes=SIZES, allow=["blocks.*.norm1.*"])
    assert foreign.report[1] == "loaded 29/30 tensors into image"
    assert foreign.report[-1] == "missing, but allowed (initial values): blocks.1.norm1.weight"
    assert foreign.weights["image"]["encoder.blocks.1.norm1.weight"].eq(1).all()


def test_unexpected_tensors_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    more = {f"adapter.{number}": torch.zeros(1) for number in range(7)}
    path = save(tmp_path, {**state, **more})
    assert "7 tensors are unexpected: adapter.0, adapter.1" in problem(path)
    assert "adapter.4 and 2 more" in problem(path)
    foreign = read_foreign(path, sizes=SIZES, allow=["adapter.*"])
    assert foreign.report[-1].startswith("unexpected, but allowed: adapter.0")


def test_a_block_less_in_the_middle_is_missing(state: dict[str, Tensor], tmp_path: Path) -> None:
    gone = [name for name in state if name.startswith("blocks.1.")]
    moved = {name.replace("blocks.1.", "blocks.3."): item for name, item in state.items()}
    assert "24 tensors are missing: blocks.1.norm1.weight" in problem(save(tmp_path, moved))
    assert read_foreign(save(tmp_path, without(state, *gone)), sizes=SIZES).args["depth"] == 1


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("blocks.0.mlp.fc2.weight", (48, 100), "gives [48, 100], but image takes [48, 192]"),
        ("blocks.1.norm1.weight", (4,), "gives [4], but image takes [48]"),
        ("pos_embed", (1, 19, 48), "'pos_embed' has 18 patches, which make no square"),
        ("pos_embed", (1, 17, 47), "pos_embed gives [1, 17, 47], but image takes [1, 17, 48]"),
        ("cls_token", (1, 48), "must have 3 axes"),
    ],
)
def test_a_wrong_shape_names_both(
    name: str, shape: tuple[int, ...], said: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    found = problem(save(tmp_path, {**state, name: torch.ones(shape)}))
    assert said in found


def test_heads_that_cannot_be_known_are_asked_for(state: dict[str, Tensor], tmp_path: Path) -> None:
    found = problem(save(tmp_path, state), sizes=None)
    assert "none are known for a width of 48: give sizes={'heads': ...}" in found


def test_layouts_that_are_not_there(state: dict[str, Tensor], tmp_path: Path) -> None:
    assert "did you mean 'mae'?" in problem(save(tmp_path, state), layout="maee")
    found = problem(save(tmp_path, {"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(1)}))
    assert "no known layout" in found and "conv1.weight, fc.bias" in found
    found = problem(save(tmp_path, state), layout="cavmae")
    assert "has no 'patch_embed_a.proj.weight'" in found


def test_half_precision_becomes_single(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(tmp_path, {name: item.half() for name, item in state.items()})
    weights = read_foreign(path, sizes=SIZES).weights["image"]
    assert {item.dtype for item in weights.values()} == {torch.float32}


def test_safetensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    assert read_foreign(path, sizes=SIZES).report[1] == "loaded 30/30 tensors into image"
    path.write_bytes(path.read_bytes()[:-100])
    assert "not a whole safetensors file" in problem(path)
    path.write_bytes(b"\xff" * 1000)
    assert "not a whole safetensors file" in problem(path)


def test_a_command_line_in_the_file_is_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(tmp_path, {"model": state, "args": argparse.Namespace(lr=1e-3), "epoch": 7})
    assert read_foreign(path, sizes=SIZES).layout == "timm_vit"


class Malicious:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("legacy", [True, False])
def test_nothing_is_executed(legacy: bool, tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "weights.pth"
    value = {"model": {"x": torch.zeros(1), "y": Malicious(trap)}}
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    found = problem(path)
    assert "system, which tensors do not need; it was not run" in found
    with open(path, "wb") as file:
        pickle.dump(Malicious(trap), file)
    problem(path)
    assert not trap.exists()


def test_a_file_that_memory_does_not_hold_is_not_only_called_damaged(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise MemoryError

    path = save(tmp_path, state)
    monkeypatch.setattr(torch, "load", full)
    assert "memory ran out while it was read" in problem(path)


def test_damaged_files(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(tmp_path, state)
    whole = path.read_bytes()
    for length in (3, 10, 1000, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        assert "weights.pth" in problem(path)
    path.write_bytes(b"")
    assert "is empty" in problem(path)
    path.write_text("no checkpoint")
    assert "is not a checkpoint of PyTorch" in problem(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "a zip file")
    assert "damaged or no checkpoint" in problem(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3), "holds a Tensor, not tensors by name"),
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "no tensors by name, but 'epoch'"),
        ({}, "but nothing"),
        ({"model": {}}, "but nothing"),
    ],
)
def test_files_without_named_tensors(value: object, said: str, tmp_path: Path) -> None:
    assert said in problem(save(tmp_path, value))


def test_folders(tmp_path: Path) -> None:
    assert "is a folder without model.safetensors or pytorch_model.bin" in problem(tmp_path)
    assert "there is no checkpoint file" in problem(tmp_path / "none.pth")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is empty" in problem(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    assert "config.json cannot be read" in problem(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "config.json is not a mapping" in problem(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "of no known layout" in problem(tmp_path)
