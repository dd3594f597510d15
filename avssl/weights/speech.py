"""RAVEn's encoders (arXiv 2212.06246): mouth crops, and the waveform.

Letters: C channels of the first convolution, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avssl.weights.conversion import Conversion

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
LEGACY = {"embed.": "input_layer.", "after_norm.": "norm."}  # ESPnet's old names


def raven_video(conversion: Conversion) -> None:
    """Fill the module `video` of graphs/encoders/raven_video.yaml."""
    front = "frontend.frontend3D"
    _tower(conversion, "video", conversion.shape(f"{front}.0.weight", 5)[0])
    conversion.put("video", "stem.conv.weight", f"{front}.0.weight")
    _batch_norm(conversion, "video", "stem.bn", f"{front}.1")


def raven_audio(conversion: Conversion) -> None:
    """Fill the module `audio` of graphs/encoders/raven_audio.yaml."""
    front = "frontend.trunk"
    _tower(conversion, "audio", conversion.shape(f"{front}.conv1.weight", 3)[0])
    conversion.put("audio", "stem.conv.weight", f"{front}.conv1.weight")
    _batch_norm(conversion, "audio", "stem.bn", f"{front}.bn1")


def _tower(c: Conversion, module: str, channels: int) -> None:
    """All but the first layer."""
    names = {new: _known(c, new, old) for new, old in LEGACY.items()}
    width, features = c.shape(f"{names['embed.']}0.weight", 2)
    hidden = c.shape("encoders.0.feed_forward.w_1.weight", 2)[0]
    heads = c.shape("encoders.0.self_attn.pos_bias_u", 2)[0]
    depth = c.depth("encoders")
    scaled = any(".gamma_" in name for name in c.tensors)
    batch = any(
        name.endswith(("norm_ff.running_mean", "norm_ff.running_var")) for name in c.tensors
    )
    c.args |= {"channels": channels, "features": features, "width": width, "hidden": hidden}
    c.args |= {"heads": heads, "depth": depth, "layer_scale": 0.1 if scaled else 0.0}
    c.args["ffn_norm"] = "batch" if batch else "layer"
    _trunk(c, module)
    c.layer(module, "embed.proj", f"{names['embed.']}0")
    for number in range(depth):
        _block(c, module, number, scaled=scaled, batch=batch)
    c.layer(module, "norm.norm", names["after_norm."].rstrip("."))


def _known(c: Conversion, new: str, old: str) -> str:
    """The start of names that the file has; the new one where it has neither."""
    started = [start for start in (new, old) if any(name.startswith(start) for name in c.tensors)]
    return started[0] if started else new


def _trunk(c: Conversion, module: str) -> None:
    """The ResNet-18, whose blocks have the names of torchvision's."""
    for layer in range(1, 5):
        for block in range(2):
            name = f"trunk.layer{layer}.{block}"
            ours, theirs = f"stem.{name}", f"frontend.{name}"
            parts = {"conv1": "conv1", "bn1": "bn1", "conv2": "conv2", "bn2": "bn2"}
            if layer > 1 and block == 0:
                parts |= {"shortcut.conv": "downsample.0", "shortcut.bn": "downsample.1"}
            for part, original in parts.items():
                if "bn" in part:
                    _batch_norm(c, module, f"{ours}.{part}", f"{theirs}.{original}")
                else:
                    c.put(module, f"{ours}.{part}.weight", f"{theirs}.{original}.weight")


def _block(c: Conversion, module: str, number: int, *, scaled: bool, batch: bool) -> None:
    ours, theirs = f"encoder.blocks.{number}", f"encoders.{number}"
    c.layer(module, f"{ours}.norm1", f"{theirs}.norm_mha")
    for kind in ("weight", "bias"):
        names = [f"{theirs}.self_attn.linear_{part}.{kind}" for part in "qkv"]
        c.put(module, f"{ours}.attn.qkv.{kind}", *names, make=lambda *parts: torch.cat(parts))
    c.put(module, f"{ours}.attn.position.weight", f"{theirs}.self_attn.linear_pos.weight")
    c.put(module, f"{ours}.attn.u", f"{theirs}.self_attn.pos_bias_u")
    c.put(module, f"{ours}.attn.v", f"{theirs}.self_attn.pos_bias_v")
    c.layer(module, f"{ours}.attn.proj", f"{theirs}.self_attn.linear_out")
    if batch:
        _batch_norm(c, module, f"{ours}.norm2", f"{theirs}.norm_ff")
    else:
        c.layer(module, f"{ours}.norm2", f"{theirs}.norm_ff")
    c.layer(module, f"{ours}.mlp.fc1", f"{theirs}.feed_forward.w_1")
    c.layer(module, f"{ours}.mlp.fc2", f"{theirs}.feed_forward.w_2")
    if scaled:
        c.put(module, f"{ours}.scale1", f"{theirs}.gamma_mha")
        c.put(module, f"{ours}.scale2", f"{theirs}.gamma_ff")


def _batch_norm(c: Conversion, module: str, ours: str, theirs: str) -> None:
    """With its running statistics; how many batches they saw decides nothing and is 0."""
    for kind in BATCH_NORM:
        c.put(module, f"{ours}.{kind}", f"{theirs}.{kind}")
    c.put(module, f"{ours}.num_batches_tracked", make=_none_seen)


def _none_seen() -> Tensor:
    return torch.zeros((), dtype=torch.int64)
