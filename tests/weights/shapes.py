"""Names and shapes of the tensors in other projects' files, for layouts without a library."""

from __future__ import annotations

from tests.weights.plain import BLOCK, block_shapes

Shapes = dict[str, tuple[int, ...]]


def stem(name: str, width: int, kernel: tuple[int, ...]) -> Shapes:
    return {f"{name}.proj.weight": (width, *kernel), f"{name}.proj.bias": (width,)}


def norm_shapes(width: int, *names: str) -> Shapes:
    return {f"{name}.{kind}": (width,) for name in names for kind in ("weight", "bias")}


def stack(name: str, width: int, depth: int, parts: tuple[str, ...] = BLOCK) -> Shapes:
    shapes: Shapes = {}
    for number in range(depth):
        shapes |= block_shapes(f"{name}.{number}", width, parts)
    return shapes


def mavil(width: int, depth: int, fused: int, patch: int, audio: int, video: int) -> Shapes:
    """Keys and shapes of the published encoders; `audio` and `video` are numbers of patches."""
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, audio + 1, width),
        **stem("patch_embed", width, (1, patch, patch)),
        **stack("blocks", width, depth),
        "cls_token_v": (1, 1, width),
        "pos_embed_v": (1, video + 1, width),
        **stem("patch_embed_v", width, (3, 2, patch, patch)),
        **stack("blocks_v", width, depth),
        **stack("blocks_av", width, fused),
        **norm_shapes(width, "norm", "norm_v"),
        "mask_token": (1, 1, 512),
        "decoder_embed.weight": (512, width),
    }


def audiomae(width: int, depth: int, patch: int, patches: int) -> Shapes:
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, patches + 1, width),
        **stem("patch_embed", width, (1, patch, patch)),
        **stack("blocks", width, depth),
        **norm_shapes(width, "norm"),
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, patches + 1, 512),
    }


def cavmae(
    width: int, depth: int, patch: int, audio: int, video: int, classes: int | None = None
) -> Shapes:
    """The pre-trained model without its decoder, or the fine-tuned one, whole."""
    norms = tuple(f"norm{number}{end}" for number in (1, 2) for end in ("_a", "_v"))
    shapes = {
        **stem("patch_embed_a", width, (1, patch, patch)),
        **stem("patch_embed_v", width, (3, patch, patch)),
        "pos_embed_a": (1, audio, width),
        "pos_embed_v": (1, video, width),
        "modality_a": (1, 1, width),
        "modality_v": (1, 1, width),
        **stack("blocks_a", width, depth, BLOCK + norms),
        **stack("blocks_v", width, depth, BLOCK + norms),
        **stack("blocks_u", width, 1, BLOCK + norms),
        **norm_shapes(width, "norm", "norm_a", "norm_v"),
    }
    if classes is not None:
        shapes |= norm_shapes(width, "mlp_head.0")
        shapes |= {"mlp_head.1.weight": (classes, width), "mlp_head.1.bias": (classes,)}
    return shapes


def videomae(width: int, depth: int, patch: int) -> Shapes:
    shapes = {**stem("patch_embed", width, (3, 2, patch, patch)), **norm_shapes(width, "norm")}
    for name, shape in stack("blocks", width, depth).items():
        if name.endswith("qkv.bias"):
            shapes |= {name.replace("qkv.bias", bias): (width,) for bias in ("q_bias", "v_bias")}
        else:
            shapes[name] = shape
    return shapes
