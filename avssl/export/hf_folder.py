"""A plain ViT as a Hugging Face folder: ViTModel, or VideoMAEModel for clips where that is exact.

ViTModel always has a LayerNorm behind its last block. A tower without one gets weight 1 and bias 0
there, and its own features are `hidden_states[-1]`, in front of that norm; config.json says so. The
pooler is the identity, so that `pooler_output` is the CLS token of `last_hidden_state`.

Letters: B batch, N patches, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from avssl.blocks.transformer import Block
from avssl.data.config import FbankConfig, FramesConfig
from avssl.errors import UserError
from avssl.export.source import Source, difference
from avssl.export.vit import PlainViT, as_picture, plain_vit
from avssl.optional import need

TOLERANCE = 1e-5
WITHOUT_NORM = "hidden_states[-1]"
WITH_NORM = "last_hidden_state"


def write(source: Source, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json.

    Raises UserError when neither ViTModel nor VideoMAEModel computes what the tower does.
    """
    vit = plain_vit(source, target="transformers")
    (recipe,) = source.encoder.inputs.values()
    picture = vit.picture
    if picture is not None:
        config, weights = _vit_config(picture), _vit_tensors(picture)
    else:
        _check_videomae(vit, source.module)
        config, weights = _videomae_config(vit), _videomae_tensors(vit)
    processor = _fbank_processor(recipe) if isinstance(recipe, FbankConfig) else None
    if isinstance(recipe, FramesConfig):
        processor = _picture_processor(recipe, video=picture is None)
    for name, value in (("config", config), ("preprocessor_config", processor)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    weights = {key: tensor.detach().contiguous().clone() for key, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def check(source: Source, folder: Path) -> float:
    """Largest difference between the encoder's tokens at all layers and those of transformers."""
    transformers = need("transformers", extra="export", purpose="checking the export for it")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = getattr(transformers, config["architectures"][0])
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    wrong = [key for keys in report.values() for key in keys]
    if wrong:
        raise UserError(f"transformers {transformers.__version__} does not take {wrong[0]!r}")
    encoder, inputs = source.encoder, source.draw(2)
    (x,) = inputs.values()
    video = config["model_type"] == "videomae"
    with torch.no_grad():
        pixels = x.transpose(1, 2) if video else as_picture(x)  # clips are [B, T, C, H, W] there
        found = model.eval()(pixel_values=pixels, output_hidden_states=True)
        layers = list(range(encoder.depth + 1))
        prefix = 0 if video else 1
        hidden = torch.stack(found.hidden_states)[:, :, prefix:]  # [L, B, N, D]
        worst = difference(hidden, encoder.encode(inputs, layer=layers, pool="none"))
        last = found.last_hidden_state if config["avssl"]["features"] == WITH_NORM else hidden[-1]
        last = last[:, prefix:] if last is found.last_hidden_state else last
        return max(worst, difference(last, encoder.encode(inputs, pool="none")))


def _shared(vit: PlainViT, model: str, kind: str) -> dict[str, Any]:
    return {
        "architectures": [model],
        "model_type": kind,
        "hidden_size": vit.width,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": vit.heads,
        "intermediate_size": vit.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": vit.eps,
        "num_channels": vit.channels,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "dtype": "float32",
    }


def _vit_config(vit: PlainViT) -> dict[str, Any]:
    if vit.cls is None:
        raise UserError(
            "transformers' ViTModel needs a CLS token, and the tower has none: take --format "
            "timm, safetensors or onnx"
        )
    return _shared(vit, "ViTModel", "vit") | {
        "image_size": list(vit.size),
        "patch_size": list(vit.patch),
        "qkv_bias": vit.biased,
        "pooler_act": "linear",
        "pooler_output_size": vit.width,
        "avssl": {"features": WITHOUT_NORM if vit.norm is None else WITH_NORM},
    }


def _videomae_config(vit: PlainViT) -> dict[str, Any]:
    return _shared(vit, "VideoMAEModel", "videomae") | {
        "image_size": list(vit.size[1:]),
        "patch_size": list(vit.patch[1:]),
        "num_frames": vit.size[0],
        "tubelet_size": vit.patch[0],
        "qv_bias": vit.biased,
        "use_mean_pooling": vit.norm is None,  # without the final norm
        "avssl": {"features": WITH_NORM},
    }


def _vit_tensors(vit: PlainViT) -> dict[str, Tensor]:
    assert vit.cls is not None
    eye = torch.eye(vit.width)
    zero = torch.zeros(vit.width)
    row = torch.zeros_like(vit.positions[:, :1])
    named = {
        "embeddings.cls_token": vit.cls,
        "embeddings.position_embeddings": torch.cat([row, vit.positions], dim=1),  # [1, 1 + N, D]
        "layernorm.weight": torch.ones(vit.width) if vit.norm is None else vit.norm.weight,
        "layernorm.bias": zero if vit.norm is None else vit.norm.bias,
        "pooler.dense.weight": eye,
        "pooler.dense.bias": zero,
    }
    for index, block in enumerate(vit.blocks):
        head = f"encoder.layer.{index}.attention.attention"
        weights = block.attn.qkv.weight.chunk(3)
        named |= {f"{head}.{n}.weight": w for n, w in zip(_QKV, weights, strict=True)}
        if vit.biased:
            biases = block.attn.qkv.bias.chunk(3)
            named |= {f"{head}.{n}.bias": b for n, b in zip(_QKV, biases, strict=True)}
    return named | _common_tensors(vit)


def _videomae_tensors(vit: PlainViT) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for index, block in enumerate(vit.blocks):
        head = f"encoder.layer.{index}.attention.attention"
        weights = block.attn.qkv.weight.chunk(3)
        named |= {f"{head}.{n}.weight": w for n, w in zip(_QKV, weights, strict=True)}
        if vit.biased:  # a bias of the keys shifts all scores of a query alike: softmax drops it
            query, _, value = block.attn.qkv.bias.chunk(3)
            named |= {f"{head}.q_bias": query, f"{head}.v_bias": value}
    if vit.norm is not None:
        named |= {"layernorm.weight": vit.norm.weight, "layernorm.bias": vit.norm.bias}
    return named | _common_tensors(vit)


_QKV = ("query", "key", "value")


def _common_tensors(vit: PlainViT) -> dict[str, Tensor]:
    """Patch embedding, and what blocks hold besides query, key and value."""
    named = {
        "embeddings.patch_embeddings.projection.weight": vit.weight,
        "embeddings.patch_embeddings.projection.bias": vit.bias,
    }
    for index, block in enumerate(vit.blocks):
        parts = _block_parts(block)
        named |= {
            f"encoder.layer.{index}.{name}.{key}": tensor
            for name, layer in parts.items()
            for key, tensor in layer.named_parameters()
        }
    return named


def _block_parts(block: Block) -> dict[str, torch.nn.Module]:
    return {
        "layernorm_before": block.norm1,
        "attention.output.dense": block.attn.proj,
        "layernorm_after": block.norm2,
        "intermediate.dense": block.mlp.fc1,
        "output.dense": block.mlp.fc2,
    }


def _check_videomae(vit: PlainViT, module: str) -> None:
    """Raise UserError where VideoMAEModel computes something else."""
    reason = None
    if vit.cls is not None:
        reason = "it has a CLS token"
    elif not torch.allclose(vit.positions[0], _videomae_table(vit), atol=1e-6):
        reason = "its positions are others"
    if reason is not None:
        raise UserError(
            f"{module} reads clips of {vit.size[0]} pictures, for which transformers has "
            f"VideoMAEModel, but {reason}: take --format safetensors or onnx"
        )


def _videomae_table(vit: PlainViT) -> Tensor:
    """VideoMAE's fixed positions [N, D]: of the running number, sines and cosines by turns."""
    count = vit.positions.shape[1]
    channel = torch.arange(vit.width, dtype=torch.float64)
    angle = torch.arange(count, dtype=torch.float64)[:, None] / 10000 ** (
        2 * (channel // 2) / vit.width
    )
    even = torch.arange(vit.width) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos()).to(vit.positions.dtype)


def _fbank_processor(recipe: FbankConfig) -> dict[str, Any]:
    """Kaldi filterbanks padded with zeros, then (x - mean) / (2 std): AST's extractor does both."""
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": recipe.sample_rate,
        "num_mel_bins": recipe.bins,
        "max_length": recipe.frames,
        "do_normalize": True,
        "mean": recipe.mean,
        "std": recipe.std,
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _picture_processor(recipe: FramesConfig, *, video: bool) -> dict[str, Any]:
    return {
        "image_processor_type": "VideoMAEImageProcessor" if video else "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": recipe.size},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": recipe.size, "width": recipe.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(recipe.mean),
        "image_std": list(recipe.std),
    }
