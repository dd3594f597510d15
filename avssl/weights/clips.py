"""ViTs over a clip: VideoMAE's and MVD's, which share their names but not their positions.

Letters: D width, N patches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from avssl.blocks.positions import sincos_table_3d, sinusoid_table
from avssl.errors import UserError
from avssl.weights.conversion import Conversion

# What a file does not show: every released model was trained on this.
IMAGE, FRAMES = 224, 16


def videomae(conversion: Conversion) -> None:
    """Fill the module `video` of graphs/encoders/clip.yaml; the file holds no positions."""
    grid, width = _clip(conversion)
    _positions(conversion, lambda: sinusoid_table(grid[0] * grid[1] * grid[2], width))


def mvd(conversion: Conversion) -> None:
    """The same; pre-trained files hold positions, fine-tuned ones do not."""
    grid, width = _clip(conversion)
    if "pos_embed" in conversion:
        conversion.put("video", "positions.table", "pos_embed")
    else:
        _positions(conversion, lambda: sincos_table_3d(grid, width))


def clip_size(c: Conversion, tubelet: int, patch: int, patches: int | None) -> tuple[int, int]:
    """Frames and side of the clip that so many patches cover; None: as released models have it."""
    image = c.given("image", c.number("image_size", IMAGE))
    place = (image // patch) ** 2
    if patches is not None and (image % patch or patches % place):
        raise UserError(
            f"{c.path}: {patches} patches of {tubelet} x {patch} x {patch} do not cover a clip of "
            f"{image} x {image}: give sizes={{'image': ...}}"
        )
    known = FRAMES if patches is None else patches // place * tubelet
    return c.given("frames", known), image


def no_key_bias(query: Tensor, value: Tensor) -> Tensor:
    """Bias [3 D] of query, key and value, of which the key has none."""
    return torch.cat([query, torch.zeros_like(query), value])


def _clip(c: Conversion) -> tuple[list[int], int]:
    """All but the positions. Returns the grid of patches, and D."""
    width, _, tubelet, patch, _ = c.shape("patch_embed.proj.weight", 5)
    c.transformer(width, "blocks.0.mlp.fc1.weight")
    patches = c.shape("pos_embed", 3)[1] if "pos_embed" in c else None
    frames, image = clip_size(c, tubelet, patch, patches)
    depth = c.depth("blocks")
    fine_tuned = "fc_norm.weight" in c and "norm.weight" not in c
    c.args |= {"depth": depth, "frames": frames, "image": image, "tubelet": tubelet}
    c.args |= {"patch": patch, "norm": "none" if fine_tuned else "layer"}
    c.data["video"] = {"frames": frames, "size": image}
    c.layer("video", "stem.proj", "patch_embed.proj")
    for number in range(depth):
        ours, theirs = f"encoder.blocks.{number}", f"blocks.{number}"
        for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            c.layer("video", f"{ours}.{part}", f"{theirs}.{part}")
        c.put("video", f"{ours}.attn.qkv.weight", f"{theirs}.attn.qkv.weight")
        names = [f"{theirs}.attn.{bias}" for bias in ("q_bias", "v_bias")]
        c.put("video", f"{ours}.attn.qkv.bias", *names, make=no_key_bias)
    if not fine_tuned:
        c.layer("video", "norm.norm", "norm")
    return [frames // tubelet, image // patch, image // patch], width


def _positions(c: Conversion, codes: Callable[[], Tensor]) -> None:
    c.put("video", "positions.table", make=lambda: codes().float().unsqueeze(0))
