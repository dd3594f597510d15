"""Configuration and weights of transformers' ViTModel, ASTModel and VideoMAEModel for a plain ViT.

The names of the weights are those that every release of transformers reads.

Letters: N patches, P tokens in front, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avssl.blocks.positions import sinusoid_table
from avssl.export.vit import PlainViT, without_model

WITHOUT_NORM = "hidden_states[-1]"
WITH_NORM = "last_hidden_state"
_TARGET = "transformers"
_QKV = ("query", "key", "value")

Parts = tuple[dict[str, Any], dict[str, Tensor]]  # configuration, weights


def model_parts(vit: PlainViT, module: str) -> Parts:
    """Configuration and weights of the model that computes what the tower does.

    module: the encoder's name, for messages.

    Raises UserError when there is none.
    """
    if vit.turned:
        return _ast(vit, module)
    if vit.picture is not None:
        return _vit(vit.picture, module)
    return _videomae(vit, module)


def _vit(vit: PlainViT, module: str) -> Parts:
    if not vit.side_by_side or vit.front.shape[1] != 1:
        reason = f"has {vit.front.shape[1]} tokens in front, or patches that overlap"
        without_model(module, _TARGET, reason)
    zero, one, eye = torch.zeros(vit.width), torch.ones(vit.width), torch.eye(vit.width)
    row = torch.zeros_like(vit.front)
    config = _shared(vit, "ViTModel", "vit") | {
        "image_size": list(vit.size),
        "patch_size": list(vit.patch),
        "num_channels": vit.channels,
        "qkv_bias": vit.biased,
        "pooler_act": "linear",
        "pooler_output_size": vit.width,
        "avssl": {"features": WITHOUT_NORM if vit.norm is None else WITH_NORM},
    }
    return config, _common(vit) | {
        "embeddings.cls_token": vit.front,
        "embeddings.position_embeddings": torch.cat([row, vit.positions], dim=1),  # [1, 1 + N, D]
        "layernorm.weight": one if vit.norm is None else vit.norm.weight,
        "layernorm.bias": zero if vit.norm is None else vit.norm.bias,
        "pooler.dense.weight": eye,
        "pooler.dense.bias": zero,
    }


def _ast(vit: PlainViT, module: str) -> Parts:
    if vit.front.shape[1] != 2 or vit.norm is None or vit.patch[0] != vit.patch[1]:
        reason = "reads bins before frames, and lacks AST's two tokens, norm or square patches"
        without_model(module, _TARGET, reason)
    config = _shared(vit, "ASTModel", "audio-spectrogram-transformer") | {
        "max_length": vit.size[0],
        "num_mel_bins": vit.size[1],
        "patch_size": vit.patch[0],
        "frequency_stride": vit.stride[0],
        "time_stride": vit.stride[1],
        "qkv_bias": vit.biased,
        "avssl": {"features": WITH_NORM},
    }
    rows = torch.zeros_like(vit.front)
    return config, _common(vit) | {
        "embeddings.cls_token": vit.front[:, :1],
        "embeddings.distillation_token": vit.front[:, 1:],
        "embeddings.position_embeddings": torch.cat([rows, vit.positions], dim=1),  # [1, 2 + N, D]
        "layernorm.weight": vit.norm.weight,
        "layernorm.bias": vit.norm.bias,
    }


def _videomae(vit: PlainViT, module: str) -> Parts:
    clip = f"reads clips of {vit.size[0]} pictures"
    if vit.front.shape[1]:
        without_model(module, _TARGET, f"{clip} with a CLS token")
    table = sinusoid_table(vit.positions.shape[1], vit.width).to(vit.positions)  # [N, D]
    if not torch.allclose(vit.positions[0], table, atol=1e-6):
        without_model(module, _TARGET, f"{clip} with other positions than VideoMAE's")
    config = _shared(vit, "VideoMAEModel", "videomae") | {
        "image_size": list(vit.size[1:]),
        "patch_size": list(vit.patch[1:]),
        "num_channels": vit.channels,
        "num_frames": vit.size[0],
        "tubelet_size": vit.patch[0],
        "qv_bias": vit.biased,
        "use_mean_pooling": vit.norm is None,  # without a norm behind the last block
        "avssl": {"features": WITH_NORM},
    }
    weights = _common(vit)
    for index in range(len(vit.blocks)):
        head = f"encoder.layer.{index}.attention.attention"
        for name, short in (("query", "q"), ("key", ""), ("value", "v")):
            bias = weights.pop(f"{head}.{name}.bias", None)
            # a bias of the keys shifts all scores of a query alike: softmax drops it
            if bias is not None and short:
                weights[f"{head}.{short}_bias"] = bias
    if vit.norm is not None:
        weights |= {"layernorm.weight": vit.norm.weight, "layernorm.bias": vit.norm.bias}
    return config, weights


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
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "dtype": "float32",
    }


def _common(vit: PlainViT) -> dict[str, Tensor]:
    """Patch embedding and blocks."""
    weights = {
        "embeddings.patch_embeddings.projection.weight": vit.weight,
        "embeddings.patch_embeddings.projection.bias": vit.bias,
    }
    for index, block in enumerate(vit.blocks):
        head = f"encoder.layer.{index}"
        layers: dict[str, nn.Module] = {
            "layernorm_before": block.norm1,
            "attention.output.dense": block.attn.proj,
            "layernorm_after": block.norm2,
            "intermediate.dense": block.mlp.fc1,
            "output.dense": block.mlp.fc2,
        }
        for name, layer in layers.items():
            weights |= {f"{head}.{name}.{key}": x for key, x in layer.named_parameters()}
        for key, joined in block.attn.qkv.named_parameters():
            for name, part in zip(_QKV, joined.chunk(3), strict=True):
                weights[f"{head}.attention.attention.{name}.{key}"] = part
    return weights
