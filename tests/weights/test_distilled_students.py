"""Pre-trained files of students: every tensor of DMAE's and MVD's is taken, or left out by a name
that the layout knows."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avssl.errors import UserError
from avssl.weights.foreign import Foreign, read_foreign
from tests.weights.plain import build, picture_positions, random_state, save
from tests.weights.shapes import Shapes, norm_shapes, stack, stem, videomae

WIDTH, DEPTH, DECODER, TEACHER = 48, 2, 24, 64
SIZES = {"heads": 3}
CLIP = {**SIZES, "image": 32, "frames": 4}


def linear(name: str, width: int, out: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def dmae() -> tuple[Shapes, Shapes]:
    """Of the encoder, and of the rest; two pairs of blocks are aligned."""
    encoder = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 5, WIDTH),
        **stem("patch_embed", WIDTH, (3, 16, 16)),
        **stack("blocks", WIDTH, DEPTH),
        **norm_shapes(WIDTH, "norm"),
    }
    rest = {
        "mask_token": (1, 1, DECODER),
        "decoder_pos_embed": (1, 5, DECODER),
        **linear("decoder_embed", WIDTH, DECODER),
        **stack("decoder_blocks", DECODER, 1),
        **norm_shapes(DECODER, "decoder_norm"),
        **linear("decoder_pred", DECODER, 768),
        **linear("aligned_feature_projection_heads.0", WIDTH, TEACHER),
        **linear("aligned_feature_projection_heads.1", WIDTH, TEACHER),
    }
    return encoder, rest


def mvd() -> tuple[Shapes, Shapes]:
    """The same, with the two branches."""
    rest: Shapes = {}
    for branch in ("img", "vid"):
        blocks = videomae(DECODER, 1, 16).items()
        rest |= {
            f"mask_token_{branch}": (1, 1, DECODER),
            f"pos_embed_{branch}": (1, 8, DECODER),
            **linear(f"down_{branch}", WIDTH, DECODER),
            **{f"decoder_{branch}.{k}": v for k, v in blocks if not k.startswith("patch_embed")},
            **linear(f"decoder_{branch}.head", DECODER, TEACHER),
        }
    return {**videomae(WIDTH, DEPTH, 16), "pos_embed": (1, 8, WIDTH)}, rest


def read(tensors: Mapping[str, Tensor], folder: Path, sizes: Mapping[str, int]) -> Foreign:
    return read_foreign(save(folder, {"model": dict(tensors)}), sizes=sizes)


@pytest.mark.parametrize(
    ("layout", "shapes", "module", "sizes", "left"),
    [
        (
            "mae", dmae(), "image", SIZES,
            {"decoder_*": 19, "mask_token": 1, "aligned_feature_projection_heads.*": 4},
        ),
        (
            "mvd", mvd(), "video", CLIP,
            {"mask_token*": 2, "down_*": 4, "pos_embed_*": 2, "decoder_*": 34},
        ),
    ],
    ids=["dmae", "mvd"],
)  # fmt: skip
def test_every_tensor_of_a_students_file_is_accounted_for(
    layout: str,
    shapes: tuple[Shapes, Shapes],
    module: str,
    sizes: dict[str, int],
    left: dict[str, int],
    tmp_path: Path,
) -> None:
    encoder, rest = (random_state(part) for part in shapes)
    foreign = read({**encoder, **rest}, tmp_path, sizes)
    assert foreign.layout == layout
    ours = foreign.weights[module]
    counted = ", ".join(f"{pattern} {count}" for pattern, count in left.items())
    assert sum(left.values()) == len(rest)
    assert foreign.report == [
        f"weights.pth: layout {layout}",
        f"loaded {len(ours)}/{len(ours)} tensors into {module}",
        f"left out, as the layout says: {counted}",
    ]
    # q_bias and v_bias become one
    assert len(ours) == len(encoder) - sum(name.endswith("q_bias") for name in encoder)
    assert torch.equal(ours["positions.table"], encoder["pos_embed"])
    for name in ("blocks.1.mlp.fc2.weight", "blocks.0.norm1.bias"):
        assert torch.equal(ours[f"encoder.{name}"], encoder[name])
    build(foreign)
    with pytest.raises(UserError, match=r"1 tensors are unexpected: branch_img\.weight"):
        read({**encoder, **rest, "branch_img.weight": torch.ones(1)}, tmp_path, sizes)


def test_a_dmae_student_without_its_decoder_is_known_by_its_positions(tmp_path: Path) -> None:
    encoder, rest = (random_state(part) for part in dmae())
    table = torch.cat([torch.zeros(1, 1, WIDTH), picture_positions(2, WIDTH)], dim=1)
    heads = {name: item for name, item in rest.items() if name.startswith("aligned_")}
    foreign = read({**encoder, "pos_embed": table, **heads}, tmp_path, SIZES)
    assert foreign.layout == "mae"
    told = "left out, as the layout says: aligned_feature_projection_heads.* 4"
    assert foreign.report[-1] == told


@pytest.mark.parametrize("branch", ["img", "vid"])
def test_an_mvd_student_without_positions_is_known_by_one_branch(
    branch: str, tmp_path: Path
) -> None:
    encoder, rest = (random_state(part) for part in mvd())
    del encoder["pos_embed"]
    one = {name: item for name, item in rest.items() if f"_{branch}" in name}
    foreign = read({**encoder, **one}, tmp_path, CLIP)
    assert foreign.layout == "mvd" and len(one) == 21
    assert foreign.weights["video"]["positions.table"].shape == (1, 8, WIDTH)
