"""Files laid out as teachers are released, of the real sizes, though all values of a tensor are
one, so that they are small; and paper files read beside them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import VideoMAEModel

from avssl.blocks.positions import sincos_table_2d
from avssl.train.experiment import LoadedExperiment, load_experiment
from tests.recipes.students import CONFIGS
from tests.weights.plain import original_names, save
from tests.weights.shapes import Shapes, norm_shapes, stack, stem, videomae

Values = Mapping[str, Tensor]


def one_value(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes that take four bytes each on disk."""
    return {name: torch.full((1,), 0.1).expand(shape) for name, shape in shapes.items()}


def picture_shapes(width: int, depth: int, patch: int, side: int) -> Shapes:
    """timm's names, which MAE and MoCo v3 have."""
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side * side, width),
        **stem("patch_embed", width, (3, patch, patch)),
        **stack("blocks", width, depth),
        **norm_shapes(width, "norm"),
    }


def released_mae(values: Values, *, decoder: bool = False) -> dict[str, Any]:
    """`mae_pretrain_vit_*.pth`, or with its decoder `mae_visualize_vit_*.pth`."""
    _, rows, width = values["pos_embed"].shape
    side = int((rows - 1) ** 0.5)
    table = torch.cat([torch.zeros(1, width), sincos_table_2d([side, side], width).float()])
    state = {**values, "pos_embed": table.unsqueeze(0)}
    if decoder:
        more = {"decoder_embed.weight": (512, width), "mask_token": (1, 1, 512)}
        more |= {"decoder_pos_embed": (1, rows, 512), **norm_shapes(512, "decoder_norm")}
        state |= one_value({**more, **stack("decoder_blocks", 512, 1)})
    return {"model": state}


def released_videomae(of: VideoMAEModel | Values) -> dict[str, Any]:
    """VideoMAE's pre-training checkpoint: the encoder under its prefix, and a decoder."""
    values = original_names(of) if isinstance(of, VideoMAEModel) else of
    state = {f"encoder.{name}": item for name, item in values.items()}
    state |= one_value({"mask_token": (1, 1, 384), **norm_shapes(384, "decoder.norm")})
    state |= one_value({"encoder_to_decoder.weight": (384, 384)})
    return {"model": state}


def released_mocov3(values: Values) -> dict[str, Any]:
    """`vit-s-300ep.pth.tar`: both branches with their projectors, and the predictor."""
    state = {f"module.base_encoder.{name}": item for name, item in values.items()}
    state |= one_value({"module.base_encoder.head.0.weight": (4096, 384)})
    state |= {name.replace("base", "momentum"): item for name, item in state.items()}
    state |= one_value({"module.predictor.0.weight": (4096, 256)})
    return {"state_dict": state, "arch": "vit_small", "epoch": 300}


def mae_file(width: int, depth: int, patch: int = 16, **more: bool) -> dict[str, Any]:
    return released_mae(one_value(picture_shapes(width, depth, patch, 224 // patch)), **more)


def videomae_file(width: int, depth: int) -> dict[str, Any]:
    return released_videomae(one_value(videomae(width, depth, 16)))


def mocov3_file(depth: int = 12) -> dict[str, Any]:
    values = one_value(picture_shapes(384, depth, 16, 14))
    table = torch.rand(1, 197, 384)
    table[:, 0] = 0
    return released_mocov3({**values, "pos_embed": table})


BASE, LARGE, HUGE = (768, 12), (1024, 24), (1280, 32)
# paper file -> checkpoint it names -> what is in it
FILES = {
    "mvd_small": {
        "mae_pretrain_vit_base": lambda: mae_file(*BASE),
        "videomae_k400_1600e_base": lambda: videomae_file(*BASE),
    },
    "mvd_large": {
        "mae_pretrain_vit_large": lambda: mae_file(*LARGE),
        "videomae_k400_1600e_large": lambda: videomae_file(*LARGE),
    },
    "mvd_huge": {
        "mae_pretrain_vit_huge": lambda: mae_file(*HUGE, patch=14),
        "videomae_k400_1600e_huge": lambda: videomae_file(*HUGE),
    },
    "mimco_small": {"mocov3_vit_small": mocov3_file},
    "dmae_base": {"mae_visualize_vit_large": lambda: mae_file(*LARGE, decoder=True)},
}
FILES["mvd_base"] = FILES["mvd_small"]


def write_teachers(name: str, folder: Path) -> None:
    """The checkpoints that a paper file names."""
    (folder / "checkpoints").mkdir()
    for file, content in FILES.get(name, {}).items():
        save(folder / "checkpoints", content(), f"{file}.pth")


def loaded(name: str, folder: Path, *overrides: str, shapes: bool = True) -> LoadedExperiment:
    """A paper file beside its checkpoints."""
    for part in ("towers", "graphs", "paper"):
        shutil.copytree(CONFIGS / part, folder / part, dirs_exist_ok=True)
    return load_experiment(folder / "paper" / f"{name}.yaml", overrides, shapes=shapes)
