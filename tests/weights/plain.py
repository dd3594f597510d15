"""Foreign models read off their state dicts in plain torch, and the layers of ours to compare.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import VideoMAEModel

from avssl.graph.graph import Graph
from avssl.weights.foreign import Foreign

State = Mapping[str, Tensor]
BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def randomise(module: nn.Module) -> nn.Module:
    """Weights with nothing at 0 or 1, so that a forgotten one shows."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.02, std=0.15)
    return module.eval()


def random_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    torch.manual_seed(6)
    return {name: 0.02 + 0.15 * torch.randn(*shape) for name, shape in shapes.items()}


def block_shapes(
    name: str, width: int, parts: Sequence[str] = BLOCK, ratio: int = 4
) -> dict[str, tuple[int, ...]]:
    """Weights and biases of one block with timm's names."""
    out_in = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (ratio, 1), "mlp.fc2": (1, ratio)}
    shapes: dict[str, tuple[int, ...]] = {}
    for part in parts:
        out, inner = out_in.get(part, (1, 0))
        weight = (out * width, inner * width) if inner else (width,)
        shapes |= {f"{name}.{part}.weight": weight, f"{name}.{part}.bias": (out * width,)}
    return shapes


def norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def run_block(
    state: State, name: str, x: Tensor, *, heads: int, eps: float, end: str = ""
) -> Tensor:
    """A pre-norm ViT block [B, N, D]; its norms' names end in `end`."""
    qkv = linear(state, f"{name}.attn.qkv", norm(state, f"{name}.norm1{end}", x, eps))
    q, k, v = qkv.view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)  # [B, heads, N, Dh]
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    x = x + linear(state, f"{name}.attn.proj", (weights @ v).transpose(1, 2).flatten(2))
    hidden = linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.norm2{end}", x, eps))
    return x + linear(state, f"{name}.mlp.fc2", F.gelu(hidden))


def convolved(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Patches [B, N, D] by the stem's own convolution."""
    weight, bias = state[f"{name}.proj.weight"], state[f"{name}.proj.bias"]
    convolve = F.conv2d if weight.dim() == 4 else F.conv3d
    return convolve(x, weight, bias, stride=weight.shape[2:]).flatten(2).transpose(1, 2)


def mae_tower(
    state: dict[str, Tensor], end: str, x: Tensor, depth: int, *, heads: int
) -> list[Tensor]:
    """CLS and patches behind each block: positions are added to the patches, then the CLS token
    with its own row goes in front."""
    table = state[f"pos_embed{end}"]
    patches = convolved(state, f"patch_embed{end}", x) + table[:, 1:]
    cls = (state[f"cls_token{end}"] + table[:, :1]).expand(len(x), -1, -1)
    found = [torch.cat([cls, patches], 1)]
    for number in range(depth):
        name = f"blocks{end}.{number}"
        found.append(run_block(state, name, found[-1], heads=heads, eps=1e-6))
    return found


def original_names(model: VideoMAEModel) -> dict[str, Tensor]:
    """The weights of transformers' model under VideoMAE's own names."""
    state = model.state_dict()
    found = {
        f"patch_embed.proj.{kind}": state[f"embeddings.patch_embeddings.projection.{kind}"]
        for kind in ("weight", "bias")
    }
    found |= {f"norm.{kind}": state[f"layernorm.{kind}"] for kind in ("weight", "bias")}
    parts = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    for number in range(model.config.num_hidden_layers):
        theirs, ours = f"encoder.layer.{number}", f"blocks.{number}"
        for part, name in parts.items():
            for kind in ("weight", "bias"):
                found[f"{ours}.{name}.{kind}"] = state[f"{theirs}.{part}.{kind}"]
        inner = f"{theirs}.attention.attention"
        split = [state[f"{inner}.{name}.weight"] for name in ("query", "key", "value")]
        found[f"{ours}.attn.qkv.weight"] = torch.cat(split)
        found[f"{ours}.attn.q_bias"] = state[f"{inner}.query.bias"]
        found[f"{ours}.attn.v_bias"] = state[f"{inner}.value.bias"]
    return found


def code(place: int, channel: int, width: int) -> float:
    """Channel of a 1-D code: sines in its first half, cosines in the second."""
    half = width // 2
    angle = place / 10000 ** (channel % half / half)
    return math.sin(angle) if channel < half else math.cos(angle)


def code_2d(row: int, column: int, channel: int, width: int) -> float:
    """MAE's: the first half of the channels tells the column, the second the row."""
    half = width // 2
    return code(column if channel < half else row, channel % half, half)


def code_3d(time: int, row: int, column: int, channel: int, width: int) -> float:
    """MAE-ST's: a quarter of the channels tells the time, the rest the place."""
    quarter = width // 4
    if channel < quarter:
        return code(time, channel, quarter)
    return code_2d(row, column, channel - quarter, width - quarter)


def picture_positions(side: int, width: int) -> Tensor:
    """MAE's fixed table [1, side * side, D], rows first."""
    places = [(row, column) for row in range(side) for column in range(side)]
    return torch.tensor([[[code_2d(*p, k, width) for k in range(width)] for p in places]])


def build(foreign: Foreign) -> Graph:
    """The encoder graph with the weights of the file."""
    weights = {
        f"{module}.{key}": tensor
        for module, tensors in foreign.weights.items()
        for key, tensor in tensors.items()
    }
    return Graph.from_weights(foreign.spec, weights).eval()


@torch.no_grad()
def layers(module: nn.Module, **inputs: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Tokens before the first block and behind each, and the module's outputs."""
    blocks = [
        block
        for child in module.modules()
        if isinstance(stack := getattr(child, "blocks", None), nn.ModuleList)
        for block in stack
    ]
    found: list[Tensor] = []
    handles = [blocks[0].register_forward_pre_hook(lambda _, given: found.append(given[0]))]
    handles += [b.register_forward_hook(lambda _, given, out: found.append(out)) for b in blocks]
    outputs = module(**inputs)
    for handle in handles:
        handle.remove()
    return found, outputs


def worst(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest absolute difference over layers of the same shapes."""
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def save(folder: Path, value: object, name: str = "weights.pth") -> Path:
    torch.save(value, folder / name)
    return folder / name
