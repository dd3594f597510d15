"""RAVEn's released encoders: names and shapes of their tensors, and the recipe read step by step.

Letters: C channels, D width, H heads, T frames.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.weights.plain import State, linear, norm, random_state
from tests.weights.shapes import Shapes

EPS = 1e-12  # of LayerNorms


def raven(
    kind: str, *, channels: int, width: int, depth: int, heads: int, hidden: int
) -> dict[str, Tensor]:
    """Random weights under the names of a pre-trained encoder's file."""
    axes = 2 if kind == "video" else 1
    shapes: Shapes = {"encoder.embed.0.weight": (width, 8 * channels)}
    shapes |= {"encoder.embed.0.bias": (width,)}
    if kind == "video":
        shapes["encoder.frontend.frontend3D.0.weight"] = (channels, 1, 5, 7, 7)
        shapes |= _batch_norm("encoder.frontend.frontend3D.1", channels)
    else:
        shapes["encoder.frontend.trunk.conv1.weight"] = (channels, 1, 80)
        shapes |= _batch_norm("encoder.frontend.trunk.bn1", channels)
    inner = channels
    for layer in range(1, 5):
        outer = channels * 2 ** (layer - 1)
        for block in range(2):
            name = f"encoder.frontend.trunk.layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (outer, inner, *[3] * axes)
            shapes[f"{name}.conv2.weight"] = (outer, outer, *[3] * axes)
            shapes |= _batch_norm(f"{name}.bn1", outer) | _batch_norm(f"{name}.bn2", outer)
            if layer > 1 and block == 0:
                shapes[f"{name}.downsample.0.weight"] = (outer, inner, *[1] * axes)
                shapes |= _batch_norm(f"{name}.downsample.1", outer)
            inner = outer
    for number in range(depth):
        name = f"encoder.encoders.{number}"
        for part in ("q", "k", "v", "out"):
            shapes[f"{name}.self_attn.linear_{part}.weight"] = (width, width)
            shapes[f"{name}.self_attn.linear_{part}.bias"] = (width,)
        shapes[f"{name}.self_attn.linear_pos.weight"] = (width, width)
        for part in ("u", "v"):
            shapes[f"{name}.self_attn.pos_bias_{part}"] = (heads, width // heads)
        shapes[f"{name}.feed_forward.w_1.weight"] = (hidden, width)
        shapes[f"{name}.feed_forward.w_1.bias"] = (hidden,)
        shapes[f"{name}.feed_forward.w_2.weight"] = (width, hidden)
        shapes[f"{name}.feed_forward.w_2.bias"] = (width,)
        shapes |= {f"{name}.norm_mha.{kind}": (width,) for kind in ("weight", "bias")}
        shapes |= _batch_norm(f"{name}.norm_ff", width)
        shapes |= {f"{name}.gamma_{part}": (width,) for part in ("mha", "ff")}
    shapes |= {f"encoder.after_norm.{kind}": (width,) for kind in ("weight", "bias")}
    state = random_state(shapes)
    for name in shapes:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return state


def _batch_norm(name: str, width: int) -> Shapes:
    return {
        f"{name}.{kind}": (width,) for kind in ("weight", "bias", "running_mean", "running_var")
    }


def front(state: State, kind: str, x: Tensor) -> Tensor:
    """One clip [1, T, S, S] or [T * 640] through its front-end, [T, 8 C]."""
    if kind == "video":
        out = F.conv3d(x[None], state["frontend.frontend3D.0.weight"], None, (1, 2, 2), (2, 3, 3))
        out = F.silu(batch_norm(state, "frontend.frontend3D.1", out))
        out = F.max_pool3d(out, (1, 3, 3), (1, 2, 2), (0, 1, 1))[0].transpose(0, 1)
    else:
        out = F.conv1d(x[None, None], state["frontend.trunk.conv1.weight"], None, 4, 38)
        out = F.silu(batch_norm(state, "frontend.trunk.bn1", out))
    convolve = F.conv2d if kind == "video" else F.conv1d
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"frontend.trunk.layer{layer}.{block}", 2 if layer > 1 > block else 1
            inner = convolve(out, state[f"{name}.conv1.weight"], None, stride, 1)
            inner = F.silu(batch_norm(state, f"{name}.bn1", inner))
            inner = convolve(inner, state[f"{name}.conv2.weight"], None, 1, 1)
            inner = batch_norm(state, f"{name}.bn2", inner)
            if stride == 2:
                out = convolve(out, state[f"{name}.downsample.0.weight"], None, stride)
                out = batch_norm(state, f"{name}.downsample.1", out)
            out = F.silu(inner + out)
    return out.mean((2, 3)) if kind == "video" else F.avg_pool1d(out, 20)[0].T


def batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])


def attend(state: State, name: str, x: Tensor) -> Tensor:
    """Relative attention over one clip [T, D], score by score (Transformer-XL, 3.3)."""
    time, width = x.shape
    heads = state[f"{name}.pos_bias_u"].shape[0]
    q, k, v = (linear(state, f"{name}.linear_{part}", x).view(time, heads, -1) for part in "qkv")
    out = torch.zeros_like(v)
    for head in range(heads):
        u, w = (state[f"{name}.pos_bias_{part}"][head] for part in ("u", "v"))
        for i in range(time):
            scores = []
            for j in range(time):
                place = state[f"{name}.linear_pos.weight"] @ distance_code(i - j, width)
                place = place.view(heads, -1)[head]
                score = (q[i, head] + u) @ k[j, head] + (q[i, head] + w) @ place
                scores.append(score / math.sqrt(width // heads))
            out[i, head] = torch.stack(scores).softmax(0) @ v[:, head]
    return linear(state, f"{name}.linear_out", out.flatten(1))


def distance_code(distance: int, width: int) -> Tensor:
    """A sine and a cosine of each of D / 2 frequencies, in turns, [D]."""
    angles = [distance / 10000 ** (2 * pair / width) for pair in range(width // 2)]
    return torch.tensor([turn(angle) for angle in angles for turn in (math.sin, math.cos)])


def encode(state: State, kind: str, x: Tensor) -> list[Tensor]:
    """One clip: the input of the first block, the output of each, and the normed tokens, [T, D]."""
    state = {name.removeprefix("encoder."): item for name, item in state.items()}
    x = linear(state, "embed.0", front(state, kind, x))
    found = [x * math.sqrt(x.shape[1])]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("encoders."))
    for number in range(depth):
        name, x = f"encoders.{number}", found[-1]
        branch = attend(state, f"{name}.self_attn", norm(state, f"{name}.norm_mha", x, EPS))
        x = x + state[f"{name}.gamma_mha"] * branch
        hidden = batch_norm(state, f"{name}.norm_ff", x)
        hidden = F.relu(linear(state, f"{name}.feed_forward.w_1", hidden))
        branch = linear(state, f"{name}.feed_forward.w_2", hidden)
        found.append(x + state[f"{name}.gamma_ff"] * branch)
    return [*found, norm(state, "after_norm", found[-1], EPS)]
