"""A plain ViT as a Hugging Face folder: ViTModel, ASTModel, or VideoMAEModel where that is exact.

ViTModel always has a LayerNorm behind its last block. A tower without one gets weight 1 and bias 0
there, and its own features are `hidden_states[-1]`, in front of that norm; config.json says so. The
pooler is the identity, so that `pooler_output` is the CLS token of `last_hidden_state`.

Letters: B batch, L layers, N patches, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from avssl.data.config import FbankConfig, FramesConfig
from avssl.errors import UserError
from avssl.export.hf_models import WITH_NORM, model_parts
from avssl.export.source import Source, difference
from avssl.export.vit import as_picture, plain_vit
from avssl.optional import need

TOLERANCE = 1e-5


def write(source: Source, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json.

    Raises UserError when no model of transformers computes what the tower does.
    """
    vit = plain_vit(source, target="transformers")
    config, weights = model_parts(vit, source.module)
    (recipe,) = source.encoder.fixed_inputs.values()
    processor = (
        _fbank_processor(recipe)
        if isinstance(recipe, FbankConfig)
        else _picture_processor(recipe, video=vit.picture is None)
    )
    for name, value in (("config", config), ("preprocessor_config", processor)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    weights = {key: tensor.detach().contiguous().clone() for key, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def check(source: Source, folder: Path) -> float:
    """Largest difference between the encoder's tokens at all layers and those of transformers.

    Raises UserError when transformers misses a tensor, or does not know one.
    """
    transformers = need("transformers", extra="export", purpose="checking the export for it")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = getattr(transformers, config["architectures"][0])
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        model, report = kind.from_pretrained(folder, output_loading_info=True)
    finally:
        if shown:
            bars.enable_progress_bar()
    wrong = [key for keys in report.values() for key in keys]
    if wrong:
        raise UserError(f"transformers {transformers.__version__} does not take {wrong[0]!r}")
    encoder, inputs = source.encoder, source.draw(2)
    (x,) = inputs.values()
    layers = list(range(encoder.depth + 1))
    with torch.no_grad():
        found = model.eval()(model_input(config["model_type"], x), output_hidden_states=True)
        wanted = encoder.encode(inputs, layer=layers, pool="none")  # [L, B, N, D]
        prefix = found.hidden_states[0].shape[1] - wanted.shape[2]
        hidden = torch.stack(found.hidden_states)[:, :, prefix:]  # [L, B, N, D]
        worst = difference(hidden, wanted)
        last = hidden[-1]
        if config["avssl"]["features"] == WITH_NORM:
            last = found.last_hidden_state[:, prefix:]  # [B, N, D]
        return max(worst, difference(last, encoder.encode(inputs, pool="none")))


def model_input(kind: str, x: Tensor) -> Tensor:
    """An encoder's input as a model of transformers takes it.

    kind: its `model_type`. x: [B, 1, T, F] or [B, 3, T, H, W].
    """
    if kind == "videomae":
        return x.transpose(1, 2)  # [B, T, 3, H, W]
    if kind == "vit":
        return as_picture(x)  # [B, 1, T, F] or [B, 3, H, W]
    return x[:, 0]  # [B, T, F]


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
