"""Paper files of students with published teachers."""

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from avssl.blocks.positions import sincos_table_2d
from avssl.errors import ConfigError
from avssl.graph.graph import Graph
from avssl.train.experiment import LoadedExperiment
from tests.recipes.released import (
    FILES,
    loaded,
    one_value,
    picture_shapes,
    released_mae,
    released_mocov3,
    released_videomae,
    write_teachers,
)
from tests.recipes.students import CONFIGS
from tests.weights.plain import random_state, save
from tests.weights.shapes import videomae

# width, depth, heads and grid of patches
TEACHERS = {
    "mvd_small": {
        "teacher_image": (768, 12, 12, [14, 14]),
        "teacher_video": (768, 12, 12, [8, 14, 14]),
    },
    "mvd_large": {
        "teacher_image": (1024, 24, 16, [14, 14]),
        "teacher_video": (1024, 24, 16, [8, 14, 14]),
    },
    "mvd_huge": {
        "teacher_image": (1280, 32, 16, [14, 14]),
        "teacher_video": (1280, 32, 16, [8, 14, 14]),
    },
    "mimco_small": {"teacher": (384, 12, 12, [14, 14])},
    "dmae_base": {"teacher": (1024, 24, 16, [14, 14])},
}
TEACHERS["mvd_base"] = TEACHERS["mvd_small"]


@pytest.mark.parametrize("name", FILES)
def test_paper_files_build_with_published_teachers(name: str, tmp_path: Path) -> None:
    write_teachers(name, tmp_path)
    (instance,) = loaded(name, tmp_path).instances
    found = {}
    for teacher in TEACHERS[name]:
        graph = instance.spec.modules[teacher].graph
        assert graph is not None
        blocks, table = (graph.modules[part].arguments for part in ("encoder", "positions"))
        grid = [a // b for a, b in zip(table["size"], table["patch"], strict=True)]
        found[teacher] = (blocks["width"], blocks["depth"], blocks["heads"], grid)
    assert found == TEACHERS[name]


def test_every_paper_file_with_a_checkpoint_is_tested() -> None:
    files = (CONFIGS / "paper").glob("*.yaml")
    named = {path.stem for path in files if " checkpoints/" in path.read_text()}
    assert {name for name in named if not name.startswith("raven")} == set(FILES)


NARROW = ["args.width=64", "args.depth=1", "args.heads=2", "args.decoder_width=64"]
NARROW += ["args.decoder_depth=1", "args.decoder_heads=2"]


def weights_of(experiment: LoadedExperiment) -> Graph:
    (instance,) = experiment.instances
    references = experiment.references(instance, lambda _: {})
    return Graph.from_spec(instance.spec, references=references)


def test_mvd_takes_its_teachers_from_released_files(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    pictures = random_state(picture_shapes(192, 1, 16, 14))
    clips = random_state(videomae(192, 1, 16))
    save(folder, released_mae(pictures), "mae_pretrain_vit_base.pth")
    save(folder, released_videomae(clips), "videomae_k400_1600e_base.pth")
    features = ["args.image_features=192", "args.video_features=192"]
    graph = weights_of(loaded("mvd_base", tmp_path, *NARROW, *features))
    state = graph.state_dict()
    qkv = "encoder.blocks.0.attn.qkv"
    for teacher, values in (("teacher_image", pictures), ("teacher_video", clips)):
        assert torch.equal(state[f"{teacher}.{qkv}.weight"], values["blocks.0.attn.qkv.weight"])
        assert torch.equal(state[f"{teacher}.norm.norm.weight"], values["norm.weight"])
    query, key, value = state[f"teacher_video.{qkv}.bias"].chunk(3)
    assert torch.equal(query, clips["blocks.0.attn.q_bias"]) and not key.any()
    assert torch.equal(value, clips["blocks.0.attn.v_bias"])
    assert len([note for note in graph.notes if "tensors are those of" in note]) == 2


def test_mimco_takes_the_query_branch_with_12_heads(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    model = VisionTransformer(embed_dim=384, depth=1, num_heads=12, num_classes=0)
    model.pos_embed.data[:, 0] = 0
    save(tmp_path / "checkpoints", released_mocov3(model.state_dict()), "mocov3_vit_small.pth")
    graph = weights_of(loaded("mimco_small", tmp_path, "args.depth=1", "args.hidden=8"))
    assert torch.equal(graph.teacher.positions.table, model.pos_embed)
    mine = graph.teacher.encoder.blocks[0].attn
    assert mine.heads == 12 and torch.equal(mine.qkv.weight, model.blocks[0].attn.qkv.weight)


def test_dmae_takes_a_file_with_a_decoder_and_its_tap(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    values = random_state(picture_shapes(192, 2, 16, 14))
    content = released_mae(values, decoder=True)
    save(tmp_path / "checkpoints", content, "mae_visualize_vit_large.pth")
    overrides = [*NARROW, "args.teacher.sizes.tap=1", "args.teacher_width=192", "args.tap=1"]
    graph = weights_of(loaded("dmae_base", tmp_path, *overrides))
    assert graph.teacher.encoder.tap == 1
    key = "blocks.1.mlp.fc2.weight"
    assert torch.equal(graph.state_dict()[f"teacher.encoder.{key}"], values[key])


def test_the_huge_image_teacher_has_positions_for_its_own_grid(tmp_path: Path) -> None:
    """A file of 224 pixels with patches of 14, at 196: 14 x 14 places, not 16 x 16."""
    (tmp_path / "checkpoints").mkdir()
    values = random_state(picture_shapes(192, 1, 14, 16))
    save(tmp_path / "checkpoints", released_mae(values), "mae_pretrain_vit_huge.pth")
    clips = released_videomae(one_value(videomae(192, 1, 16)))
    save(tmp_path / "checkpoints", clips, "videomae_k400_1600e_huge.pth")
    features = ["args.image_features=192", "args.video_features=192"]
    graph = weights_of(loaded("mvd_huge", tmp_path, *NARROW, *features)).eval()
    table = graph.teacher_image.positions.table
    assert table.shape == (1, 197, 192) and not table[:, 0].any()
    torch.testing.assert_close(table[0, 1:], sincos_table_2d([14, 14], 192).float())
    found = graph({"video": torch.randn(1, 3, 16, 224, 224)}, ["ip", "it", "ih"])
    assert found["ip"].shape == (8, 3, 1, 196, 196)
    assert found["it"].shape == (1, 1568, 192) and found["ih"].shape == (1, 1568, 192)
    with pytest.raises(ConfigError, match=r"takes \[B, 3, 1, 196, 196\]"):
        loaded("mvd_huge", tmp_path, *NARROW, *features, "args.image_teacher_size=null")
