"""ViTs over one picture: MAE, MoCo v3 and timm's, which share timm's names.

Letters: D width, N patches, P tokens in front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avssl.blocks.positions import sincos_table_2d
from avssl.weights.conversion import Conversion

FRONT = ("cls_token", "dist_token", "reg_token")  # in the order in which timm puts them
MOCOV3_HEADS = {384: 12, 768: 12}  # ViT-S has 12 heads of 32, not DeiT's 6 of 64


def mae(conversion: Conversion) -> None:
    """As `picture`; for pictures of another size than the file's, its fixed positions are made for
    their grid, as MVD does for its teacher of Huge size (arXiv 2212.04500)."""
    picture(conversion, fixed=True)


def picture(
    conversion: Conversion, heads: Mapping[int, int] | None = None, *, fixed: bool = False
) -> None:
    """Fill the module `image` of graphs/encoders/image.yaml."""
    c = conversion
    width, _, patch, _ = c.shape("patch_embed.proj.weight", 4)
    c.transformer(width, "blocks.0.mlp.fc1.weight", heads=heads)
    front = [name for name in FRONT if name in c]
    prefix = sum(c.shape(name, 3)[1] for name in front)
    rows = c.shape("pos_embed", 3)[1]
    place_front(c, "image", "pos_embed", front, prefix)
    patches = rows if _own_rows_only(rows, prefix) else rows - prefix
    side = c.side(patches, "pos_embed")
    image = c.given("image", side * patch)
    if fixed and image // patch != side:
        codes = sincos_table_2d([image // patch] * 2, width).float()  # [N, D]
        table = torch.cat([codes.new_zeros(prefix, width), codes]).unsqueeze(0)  # [1, P + N, D]
        c.put("image", "positions.table", "pos_embed", make=lambda _: table)
        c.notes.append(f"positions are made for {image} pixels; the file's are for {side * patch}")
    depth = c.depth("blocks")
    fine_tuned = "fc_norm.weight" in c and "norm.weight" not in c
    c.args |= {
        "depth": depth,
        "image": image,
        "patch": patch,
        "prefix": prefix,
        "norm": "none" if fine_tuned else "layer",
    }
    c.data["video"] = {"size": image, **_statistics(c)}
    c.put("image", "stem.proj.weight", "patch_embed.proj.weight", make=one_frame)
    c.put("image", "stem.proj.bias", "patch_embed.proj.bias")
    c.blocks("image", "encoder", "blocks", depth)
    if not fine_tuned:
        c.layer("image", "norm.norm", "norm")


def mocov3(conversion: Conversion) -> None:
    """As `picture`, with MoCo v3's heads."""
    picture(conversion, MOCOV3_HEADS)


def place_front(c: Conversion, module: str, table: str, front: list[str], prefix: int) -> None:
    """Tokens in front, and the table of positions with rows for them.

    Where the file has rows for the patches alone (timm's no_embed_class), theirs are zero.
    """
    rows = c.shape(table, 3)[1]
    if front:
        c.put(module, "cls.cls_token", *front, make=lambda *tokens: torch.cat(tokens, dim=1))
    else:
        c.put(module, "cls.cls_token", table, make=lambda whole: whole[:, :0])  # no token at all
    if _own_rows_only(rows, prefix):

        def with_front(patches: Tensor) -> Tensor:
            return torch.cat([patches.new_zeros(1, prefix, patches.shape[2]), patches], dim=1)

        c.put(module, "positions.table", table, make=with_front)
    else:
        c.put(module, "positions.table", table)


def one_frame(kernel: Tensor) -> Tensor:
    """A picture's kernel [D, 3, p, p] as that of a clip of one frame, [D, 3, 1, p, p]."""
    return kernel.unsqueeze(2)


def _own_rows_only(rows: int, prefix: int) -> bool:
    """Whether a table has rows for the patches of a square, and none for the tokens in front."""
    return prefix > 0 and _square(rows) and not _square(rows - prefix)


def _square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _statistics(c: Conversion) -> dict[str, Any]:
    """Mean and deviation of pictures, where timm's config.json lies beside the file."""
    known = c.config.get("pretrained_cfg")
    if not isinstance(known, Mapping):
        return {}
    part, way = known.get("crop_pct", 1.0), known.get("interpolation", "bilinear")
    if part != 1.0 or way != "bilinear":
        c.notes.append(
            f"preparation differs: config.json crops {part} of a picture resized by {way}; here "
            "the shorter side is resized bilinearly to the model's, and the centre is cropped"
        )
    return {name: known[name] for name in ("mean", "std") if name in known}
