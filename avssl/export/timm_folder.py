"""A plain ViT as timm's VisionTransformer: config.json and model.safetensors.

`timm.create_model("local-dir:FOLDER", pretrained=True)` builds and loads it; so does
`VisionTransformer(**config["model_args"])` with a strict `load_state_dict`. Both take timm's own
eps of 1e-6 for every LayerNorm, and JSON cannot say another: where the tower has one, give either
`norm_layer=partial(torch.nn.LayerNorm, eps=...)`, or features differ without an error. `write`
warns of that, and the card shows the line.

Letters: B batch, N patches, D width.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from avssl.data.config import FbankConfig
from avssl.export.source import Source, difference
from avssl.export.vit import PlainViT, as_picture, picture_vit
from avssl.optional import need

TOLERANCE = 1e-5
DEFAULT_EPS = 1e-6  # of timm's LayerNorm; another one cannot be written as JSON


def write(source: Source, folder: Path) -> None:
    """Write the tower with the keys of timm's VisionTransformer; on stderr a warning, if timm would
    build it with another eps by itself.

    Raises UserError when the tower is no plain ViT over a single picture or a spectrogram.
    """
    vit = picture_vit(source, target="timm")
    (recipe,) = source.encoder.fixed_inputs.values()
    config = {
        "architecture": "vit_base_patch16_224",  # every size of it is overridden below
        "num_classes": 0,
        "num_features": vit.width,
        "global_pool": "avg",
        "model_args": arguments(vit),
        "pretrained_cfg": {
            "input_size": [vit.channels, *vit.size],
            "fixed_input_size": True,
            "mean": [recipe.mean] if isinstance(recipe, FbankConfig) else list(recipe.mean),
            # spectrograms are divided by twice the deviation
            "std": [2 * recipe.std] if isinstance(recipe, FbankConfig) else list(recipe.std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "avssl": {"norm_eps": vit.eps},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors(vit), folder / "model.safetensors", metadata={"format": "pt"})
    if vit.eps != DEFAULT_EPS:
        print(
            f"{source.module} has LayerNorms of eps {vit.eps:g}, timm of {DEFAULT_EPS:g}: give "
            f"create_model norm_layer=partial(torch.nn.LayerNorm, eps={vit.eps:g}), as the card "
            "shows, or its features differ",
            file=sys.stderr,
            flush=True,
        )


def check(source: Source, folder: Path) -> float:
    """Largest difference between the encoder's features and timm's, at all layers."""
    timm = need("timm", extra="export", purpose="checking the export for timm")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    norm: dict[str, Any] = {}
    if config["avssl"]["norm_eps"] != DEFAULT_EPS:
        norm["norm_layer"] = _norm(config["avssl"]["norm_eps"])
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, **norm).eval()
    inputs = source.draw(2)
    (x,) = inputs.values()
    encoder = source.encoder
    depth = encoder.depth
    with torch.no_grad():
        layers = model.forward_intermediates(
            as_picture(x), indices=depth, output_fmt="NLC", intermediates_only=True
        )
        wanted = encoder.encode(inputs, layer=list(range(1, depth + 1)), pool="none")
        pairs = [
            (torch.stack(layers), wanted),  # [L, B, N, D]
            (_patches(model, as_picture(x)), encoder.encode(inputs, pool="none")),  # [B, N, D]
            (model(as_picture(x)), encoder.encode(inputs)),  # [B, D]
        ]
    return max(difference(found, expected) for found, expected in pairs)


def arguments(vit: PlainViT) -> dict[str, Any]:
    """Arguments of timm's VisionTransformer; pooled features are what the model returns."""
    return {
        "img_size": list(vit.size),
        "patch_size": list(vit.patch),
        "in_chans": vit.channels,
        "num_classes": 0,
        "global_pool": "avg",
        "embed_dim": vit.width,
        "depth": len(vit.blocks),
        "num_heads": vit.heads,
        "mlp_ratio": _ratio(vit.hidden, vit.width),
        "qkv_bias": vit.biased,
        "class_token": vit.front.shape[1] == 1,
        "pos_embed": "learn",  # a parameter; ours are a fixed table
        "final_norm": vit.norm is not None,
        "fc_norm": False,
    }


def tensors(vit: PlainViT) -> dict[str, Tensor]:
    """The weights under timm's names."""
    named: dict[str, Tensor] = {}
    table = vit.positions  # [1, N, D]
    if vit.front.shape[1]:
        named["cls_token"] = vit.front
        table = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)  # [1, 1 + N, D]
    named["pos_embed"] = table
    named["patch_embed.proj.weight"] = vit.weight
    named["patch_embed.proj.bias"] = vit.bias
    for index, block in enumerate(vit.blocks):
        for key, tensor in block.state_dict().items():  # blocks carry timm's own names
            named[f"blocks.{index}.{key}"] = tensor
    if vit.norm is not None:
        named["norm.weight"], named["norm.bias"] = vit.norm.weight, vit.norm.bias
    return {key: tensor.detach().contiguous().clone() for key, tensor in named.items()}


def _ratio(hidden: int, width: int) -> float:
    """A number that times the width, rounded down, is the hidden width."""
    exact = hidden / width
    return exact if int(width * exact) == hidden else (hidden + 0.5) / width


def _norm(eps: float) -> Any:
    return functools.partial(nn.LayerNorm, eps=eps)


def _patches(model: Any, x: Tensor) -> Tensor:
    return model.forward_features(x)[:, model.num_prefix_tokens :]  # [B, N, D]
