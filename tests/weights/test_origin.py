"""`init_from` and `frozen_from` as mappings: files whose names do not tell how they are read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from avssl.errors import ConfigError
from avssl.graph.graph import Graph
from avssl.graph.spec import Origin
from avssl.train.experiment import References
from tests.weights.plain import random_state, randomise, save
from tests.weights.shapes import videomae

MODEL = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_classes": 0}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A picture's ViT of width 48, whose heads no table knows, with the zero row of MoCo v3."""
    found = randomise(VisionTransformer(**MODEL, num_heads=3)).state_dict()
    found["pos_embed"][:, 0] = 0
    return found


@pytest.fixture
def path(state: dict[str, Tensor], tmp_path: Path) -> Path:
    return save(tmp_path, {"model": state}, "vit.pth")


def graph(text: str, folder: Path) -> Graph:
    """A graph whose modules are in `text`, which knows the files of `folder`."""
    file = folder / "graph.yaml"
    file.write_text(
        "inputs:\n  video: [B, 3, 1, 32, 32]\nmodules:\n"
        f"{text}\n  head: {{type: linear, width: 48, out: 48}}\n"
        "  nce: {type: info_nce, temperature: 1.0}\nnodes:\n"
        "  t: {call: tower, in: {x: batch.video}}\n  s: {call: head, in: {x: t.pooled}}\n"
        "losses:\n  match: {call: nce, in: {a: s, b: t.pooled}}\n"
    )
    return Graph.from_file(file, references=References({}, folder))


def frozen(origin: str) -> str:
    return f"  tower: {{frozen_from: {origin}}}"


HOW = "{file: vit.pth, module: image, layout: timm_vit, sizes: {heads: 3}}"


def test_a_teacher_of_a_file_that_is_ambiguous(path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"graph\.yaml:4:\d+: .*may be timm_vit or mocov3.*layout: timm_vit}"
    ):
        graph(frozen('"vit.pth:image"'), path.parent)
    tower = graph(frozen(HOW), path.parent).tower
    expected = torch.load(path)["model"]["norm.weight"]
    assert torch.equal(tower.norm.norm.weight, expected)


def test_a_tower_starts_from_it(path: Path, state: dict[str, Tensor]) -> None:
    text = (
        "  tower: {type: graph, file: towers/vit_image.yaml, width: 48, depth: 2, heads: 3, "
        f"image: 32, init_from: {HOW}}}"
    )
    (path.parent / "towers").symlink_to(Path("configs/towers").resolve())
    built = graph(text, path.parent)
    key = "blocks.1.attn.qkv.weight"
    assert torch.equal(built.tower.state_dict()[f"encoder.{key}"], state[key])
    assert built.notes[0].endswith("those of vit.pth:image (layout timm_vit)")


def test_missing_tensors_may_be_allowed(path: Path, state: dict[str, Tensor]) -> None:
    save(path.parent, {key: state[key] for key in state if key != "norm.bias"}, path.name)
    with pytest.raises(ConfigError, match=r"1 tensors are missing: norm\.bias"):
        graph(frozen(HOW), path.parent)
    allowed = HOW.replace("sizes:", "allow: [norm.*], sizes:")
    assert not graph(frozen(allowed), path.parent).tower.norm.norm.bias.any()


def test_one_file_is_read_once_for_several_modules(path: Path) -> None:
    references = References({}, path.parent)
    how: dict[str, Any] = {"layout": "timm_vit", "sizes": {"heads": 3}}
    found = references.get(Origin("vit.pth", "", **how))
    assert found is not None and references.get(Origin("vit.pth", "", **how)) is found
    assert references.get(Origin("vit.pth", "", layout="mocov3", sizes={"heads": 3})) is not found


def test_fine_tuned_clips_have_the_positions_of_their_layout(tmp_path: Path) -> None:
    file = save(tmp_path, random_state(videomae(48, 1, 16)), "clip.pth")
    sizes = {"heads": 3, "image": 32, "frames": 4}
    towers = [
        References({}, tmp_path).get(Origin(file.name, "", layout=layout, sizes=sizes))
        for layout in ("videomae", "mvd")
    ]
    tables = [tower.weights()["video.positions.table"] for tower in towers]
    assert tables[0].shape == tables[1].shape and not torch.allclose(*tables)


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("{file: vit.pth, module: image, layot: mae}", "4:55: unknown key 'layot'"),
        ("{file: vit.pth}", "4:11: 'modules.tower.frozen_from' needs a value for 'module'"),
        ("{file: 3, module: image}", "'modules.tower.frozen_from.file' must be a word, found 3"),
        ("{file: vit.pth, module: image, allow: norm}", "allow' must be a list, each a word"),
        ("{file: vti.pth, module: image}", "4:31: there is no checkpoint 'vti.pth'"),
        (HOW.replace("timm_vit", "timm"), "there is no layout 'timm'"),
        (HOW.replace("image", "video"), "stage 'vit.pth' has no module 'video'"),
        (HOW.replace("heads", "heds"), "has no size 'heds': did you mean 'heads'?"),
        (HOW.replace("3}", "0}"), "the size 'heads' must be above 0, found 0"),
        (HOW.replace("3}", "many}"), "the size 'heads' must be a whole number, found 'many'"),
    ],
)
def test_mistakes_are_told_where_they_stand(origin: str, said: str, path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        graph(frozen(origin), path.parent)
    assert said in caught.value.messages[0] and len(caught.value.messages) == 1
    assert "graph.yaml:4:" in caught.value.messages[0]
