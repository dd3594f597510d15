"""The layouts of released checkpoints that avssl knows, and how each is told from the others.

| layout | project | modules | told by |
|---|---|---|---|
| mae | facebookresearch/mae | image | a decoder, or MAE's own fixed positions |
| timm_vit | timm's plain ViTs | image | learned positions |
| mocov3 | facebookresearch/moco-v3 | image | base_encoder. |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from avssl.errors import UserError
from avssl.weights import pictures
from avssl.weights.conversion import Conversion, strip
from avssl.weights.files import Checkpoint


@dataclass(frozen=True)
class Layout:
    """One way to name the tensors of a model.

    Attributes:
        convert: fills a `Conversion`.
        matches: whether tensors, prefixes taken off, are of this layout.
        prefixes: taken off the names that have them.
        left_out: patterns of names that are no part of the encoder.
    """

    convert: Callable[[Conversion], None]
    matches: Callable[[Mapping[str, Tensor], Checkpoint], bool]
    prefixes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def _axes(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors[name].dim() if name in tensors else 0


def _any(tensors: Mapping[str, Tensor], *starts: str) -> bool:
    return any(name.startswith(starts) for name in tensors)


def _timm_picture(tensors: Mapping[str, Tensor]) -> bool:
    name = "patch_embed.proj.weight"
    return (
        _axes(tensors, name) == 4
        and tensors[name].shape[1] == 3
        and _any(tensors, "blocks.0.attn.qkv.weight")
        and "pos_embed" in tensors
    )


LAYOUTS: dict[str, Layout] = {
    "mae": Layout(
        pictures.picture,
        lambda t, _: _timm_picture(t) and _any(t, "decoder_", "mask_token"),
        left_out=(
            "decoder_*",
            "mask_token",
            "head.*",
            "fc_norm.*",
            "aligned_feature_projection_heads.*",
        ),
    ),
    "timm_vit": Layout(
        pictures.picture,
        lambda t, _: _timm_picture(t) and not _any(t, "decoder_", "mask_token"),
        left_out=("head.*", "head_dist.*", "fc_norm.*"),
    ),
    "mocov3": Layout(
        pictures.mocov3,
        lambda t, c: _timm_picture(t) and _any(c.tensors, "base_encoder."),
        prefixes=("base_encoder.",),
        left_out=("head.*", "momentum_encoder.*", "predictor.*"),
    ),
}


def detect(checkpoint: Checkpoint) -> str:
    """The name of the layout of a checkpoint.

    Raises:
        UserError: it may be of several layouts, or is of none.
    """
    found = [
        name
        for name, layout in LAYOUTS.items()
        if layout.matches(strip(checkpoint.tensors, layout.prefixes), checkpoint)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{checkpoint.path} may be {' or '.join(found)}, which its names do not tell: say "
            f"layout='{found[0]}' or another of them"
        )
    names = ", ".join(sorted(checkpoint.tensors)[:4])
    raise UserError(
        f"{checkpoint.path} is of no known layout ({', '.join(LAYOUTS)}); it holds "
        f"{len(checkpoint.tensors)} tensors such as {names}"
    )
