"""Files that are damaged, foreign to every layout or meant to run code: one sentence each, through
`avssl.load` and through tools/extract.py, which writes nothing."""

from __future__ import annotations

import os
import pickle
import runpy
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import avssl
from avssl.errors import UserError
from avssl.weights.files import read_checkpoint
from tests.weights.plain import randomise, save

TOOL = Path(__file__).parents[2] / "tools" / "extract.py"


class Malicious:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    model = VisionTransformer(img_size=32, embed_dim=192, depth=1, num_heads=3, num_classes=0)
    return randomise(model).state_dict()


def malicious(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {"model": {**state, "trap": Malicious(folder / "trap")}})


def plain_pickle(folder: Path, state: dict[str, Tensor]) -> Path:
    (folder / "weights.pth").write_bytes(pickle.dumps(Malicious(folder / "trap"), protocol=2))
    return folder / "weights.pth"


def newer_pickle(folder: Path, state: dict[str, Tensor]) -> Path:
    (folder / "weights.pth").write_bytes(pickle.dumps(Malicious(folder / "trap"), protocol=4))
    return folder / "weights.pth"


def truncated(folder: Path, state: dict[str, Tensor]) -> Path:
    path = save(folder, {"model": state})
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def truncated_safetensors(folder: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, folder / "weights.safetensors")
    whole = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    return folder / "weights.safetensors"


def empty(folder: Path, state: dict[str, Tensor]) -> Path:
    (folder / "weights.pth").touch()
    return folder / "weights.pth"


def text(folder: Path, state: dict[str, Tensor]) -> Path:
    (folder / "weights.pth").write_text("not found")
    return folder / "weights.pth"


def of_no_layout(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)})


def ambiguous(folder: Path, state: dict[str, Tensor]) -> Path:
    table = state["pos_embed"].clone()
    table[:, 0] = 0
    return save(folder, {**state, "pos_embed": table})


def not_finite(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {**state, "norm.weight": torch.full((192,), torch.inf)})


def sparse(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {**state, "blocks.0.mlp.fc1.weight": torch.zeros(768, 192).to_sparse()})


def whole_numbers(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {**state, "norm.weight": torch.ones(192, dtype=torch.int8)})


def sparse_positions(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {**state, "pos_embed": state["pos_embed"].to_sparse()})


def without_values(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {name: item.to("meta") for name, item in state.items()})


def repacked(
    folder: Path, state: dict[str, Tensor], compressed: str, pickled: bytes | None = None
) -> Path:
    """torch.save's zip again, entries of one name compressed or another pickle in it."""
    path = save(folder, state)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, held in entries.items():
            how = zipfile.ZIP_DEFLATED if compressed in name else zipfile.ZIP_STORED
            if pickled is not None and name.endswith("data.pkl"):
                held = pickled
            archive.writestr(name, held, compress_type=how)
    return path


def compressed_tensors(folder: Path, state: dict[str, Tensor]) -> Path:
    return repacked(folder, state, "/data/")


def pickle_bomb(folder: Path, state: dict[str, Tensor]) -> Path:
    return repacked(folder, state, "data.pkl", b"\x80\x02" + b"]" * 2**26)


def large_pickle(folder: Path, state: dict[str, Tensor]) -> Path:
    return repacked(folder, state, "nothing", b"\x80\x02" + b"]" * 2**25)


def damaged_pickle(folder: Path, state: dict[str, Tensor]) -> Path:
    return repacked(folder, state, "nothing", b"\x80\x02\x8b\x8e\x95")


def control_characters(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {"\x1b[2J\nerror: gone\r": torch.zeros(2)})


def surplus_control_characters(folder: Path, state: dict[str, Tensor]) -> Path:
    return save(folder, {**state, "\x1b[2J\nerror: gone\r": torch.zeros(2)})


Writer = Callable[[Path, dict[str, Tensor]], Path]

HOSTILE: dict[Writer, str] = {
    malicious: "mkdir, which tensors do not need; it was not run",
    plain_pickle: "mkdir, which tensors do not need; it was not run",
    newer_pickle: "a kind of pickle that torch.save does not write (it has the instruction 149)",
    damaged_pickle: "is damaged, or a kind of pickle",
    compressed_tensors: "is compressed (weights/data/0), which torch.save does not do",
    pickle_bomb: "is compressed (weights/data.pkl)",
    large_pickle: "weights/data.pkl takes 32 MiB",
    control_characters: r"tensors such as \x1b[2J\nerror: gone\r",
    surplus_control_characters: r"\x1b[2J\nerror: gone\r",
    truncated: "is damaged or no checkpoint",
    truncated_safetensors: "is not a whole safetensors file",
    empty: "is empty",
    text: "is not a checkpoint of PyTorch",
    of_no_layout: "is of no known layout",
    ambiguous: "may be timm_vit or mocov3",
    not_finite: "values are not finite in norm.weight",
    sparse: "blocks.0.mlp.fc1.weight is sparse float32, not plain numbers",
    sparse_positions: "pos_embed is sparse float32, not plain numbers",
    without_values: "cls_token is a shape without values (a meta tensor), not plain numbers",
    whole_numbers: "norm.weight is int8, not plain numbers",
}


def extract(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and standard error of the tool, in this process."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("write", HOSTILE)
def test_one_sentence_and_nothing_written(
    write: Writer,
    state: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tmp_path, state)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        avssl.load(path, module="image")
    assert HOSTILE[write] in str(caught.value) and str(caught.value).isprintable()
    arguments = [str(path), "corpus:scenes", "--module", "image", "--out", str(tmp_path / "out")]
    code, said = extract(arguments, monkeypatch, capsys)
    assert code == 2 and HOSTILE[write] in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_packed_again_without_compression_is_read(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    found = read_checkpoint(repacked(tmp_path, state, "nothing")).tensors
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_wrong_layout_is_one_sentence(
    state: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = save(tmp_path, state)
    with pytest.raises(UserError, match=r"has no 'patch_embed_a\.proj\.weight'"):
        avssl.load(path, layout="cavmae")
    arguments = [str(path), "corpus:scenes", "--module", "image", "--layout", "cavmae"]
    code, said = extract([*arguments, "--out", str(tmp_path / "out")], monkeypatch, capsys)
    assert code == 2 and "has no 'patch_embed_a.proj.weight'" in said
    assert not (tmp_path / "out").exists()
