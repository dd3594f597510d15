"""ViTs of transformers: ViT, ViTMAE, AST and VideoMAE, with the key names of files on its hub
(encoder.layer) and of its modules from version 5 on (layers).

Letters: D width, N patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avssl.blocks.positions import sinusoid_table
from avssl.errors import UserError
from avssl.weights.clips import clip_size, no_key_bias
from avssl.weights.conversion import Conversion
from avssl.weights.pictures import one_frame, place_front
from avssl.weights.preprocessor import fbank, frames_of
from avssl.weights.sounds import BINS

PROJECTION = "embeddings.patch_embeddings.projection"
POSITIONS = "embeddings.position_embeddings"
STRIDE, FRAMES = 10, 1024  # of every released AST, where there is no config.json


def picture(conversion: Conversion) -> None:
    """Fill the module `image` of graphs/encoders/image.yaml."""
    c = conversion
    width, _, patch, _ = c.shape(f"{PROJECTION}.weight", 4)
    rows = c.shape(POSITIONS, 3)[1]
    image = c.given("image", c.side(rows - 1, POSITIONS) * patch)
    c.args |= {"image": image, "patch": patch, "prefix": 1}
    c.data["video"] = frames_of(c, image)
    c.put("image", "stem.proj.weight", f"{PROJECTION}.weight", make=one_frame)
    c.put("image", "stem.proj.bias", f"{PROJECTION}.bias")
    place_front(c, "image", POSITIONS, ["embeddings.cls_token"], 1)
    _blocks(c, "image", width)
    c.layer("image", "norm.norm", "layernorm")


def ast(conversion: Conversion) -> None:
    """Fill the module `audio` of graphs/encoders/ast.yaml."""
    c = conversion
    width, _, patch, _ = c.shape(f"{PROJECTION}.weight", 4)
    stride = [c.number(f"{axis}_stride", STRIDE) for axis in ("frequency", "time")]
    stride = c.given("stride", stride)
    bins = c.given("mel_bins", c.number("num_mel_bins", BINS))
    frames = c.given("mel_frames", c.number("max_length", FRAMES))
    c.args |= {"patch": patch, "stride": stride, "mel_bins": bins, "mel_frames": frames}
    c.data["audio"] = fbank(c, bins, frames)
    front = ["embeddings.cls_token", "embeddings.distillation_token"]
    c.layer("audio", "stem.proj", PROJECTION)
    c.put("audio", "cls.cls_token", *front, make=lambda *tokens: torch.cat(tokens, dim=1))
    c.put("audio", "positions.table", POSITIONS)
    _blocks(c, "audio", width)
    c.layer("audio", "norm.norm", "layernorm")


def videomae(conversion: Conversion) -> None:
    """Fill the module `video` of graphs/encoders/clip.yaml; the file holds no positions."""
    c = conversion
    width, _, tubelet, patch, _ = c.shape(f"{PROJECTION}.weight", 5)
    frames, image = clip_size(c, tubelet, patch, None)
    frames = c.given("frames", c.number("num_frames", frames))
    normed = "layernorm.weight" in c or not c.config.get("use_mean_pooling", True)
    c.args |= {"frames": frames, "image": image, "tubelet": tubelet, "patch": patch}
    c.args["norm"] = "layer" if normed else "none"
    c.data["video"] = {"frames": frames, **frames_of(c, image)}
    patches = frames // tubelet * (image // patch) ** 2

    def table() -> Tensor:
        return sinusoid_table(patches, width).float().unsqueeze(0)  # [1, N, D]

    c.layer("video", "stem.proj", PROJECTION)
    c.put("video", "positions.table", make=table)
    _blocks(c, "video", width, key_bias=False)
    if normed:
        c.layer("video", "norm.norm", "layernorm")


def _blocks(c: Conversion, module: str, width: int, *, key_bias: bool = True) -> None:
    """The blocks, whose query, key and value stand apart, and the arguments they show."""
    stored = any(name.startswith("encoder.layer.") for name in c.tensors)
    layers = "encoder.layer" if stored else "layers"
    split = stored or not key_bias  # VideoMAE's modules keep the stored names
    queries = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
    query, key, value = (
        queries if split else ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    )
    parts = {
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense" if split else "attention.o_proj",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense" if split else "mlp.fc1",
        "mlp.fc2": "output.dense" if split else "mlp.fc2",
    }
    activation = c.config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise UserError(f"{c.path} has the activation {activation!r}; avssl's blocks have gelu")
    c.transformer(width, f"{layers}.0.{parts['mlp.fc1']}.weight")
    if "layer_norm_eps" in c.config:
        c.args["norm_eps"] = float(c.config["layer_norm_eps"])
    depth = c.args["depth"] = c.depth(layers)
    for number in range(depth):
        ours, theirs = f"encoder.blocks.{number}", f"{layers}.{number}"
        for part, name in parts.items():
            c.layer(module, f"{ours}.{part}", f"{theirs}.{name}")
        names = [f"{theirs}.{name}.weight" for name in (query, key, value)]
        c.put(module, f"{ours}.attn.qkv.weight", *names, make=_joined)
        names = [f"{theirs}.{name}.bias" for name in (query, key, value)]
        if key_bias:
            c.put(module, f"{ours}.attn.qkv.bias", *names, make=_joined)
        else:
            own = [f"{theirs}.attention.attention.{name}" for name in ("q_bias", "v_bias")]
            named = [names[0], names[2]] if names[0] in c else own
            c.put(module, f"{ours}.attn.qkv.bias", *named, make=no_key_bias)


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=0)
