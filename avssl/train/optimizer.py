"""The optimizer: one AdamW over named parameter groups, its learning-rate schedule, and gradient
clipping per module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avssl.train.sharding import full, local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avssl.graph import Graph
    from avssl.train.config import TrainConfig


def trained_parameters(graph: Graph) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield (graph module, full name, parameter) of everything that is trained, in a fixed
    order."""
    for module, child in graph.named_children():
        if module in graph.frozen:
            continue
        for name, parameter in child.named_parameters():
            if parameter.requires_grad:
                yield module, f"{module}.{name}", parameter


def transformer_blocks(root: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield (name, list) of every ``blocks`` list inside `root`: what layer decay, sharding and
    checkpointing act on."""
    for name, module in root.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "blocks":
            yield name, module


def layer_of(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Give each parameter its (layer, number of layers): 0 before the transformer blocks, 1..L in
    them, L + 1 after.

    A second list of blocks counts on where the first ended; what lies between two lists has the
    layer of the last block before it. "Before" and "after" follow the order in which the module
    registers its parts, so a stem must be registered before the blocks and a final norm after them.
    A module without blocks is one layer, (0, 0): layer decay leaves it alone.
    """
    first: dict[str, int] = {}  # list -> layer of its first block
    total = 0
    for name, blocks in transformer_blocks(module):
        first[name] = total + 1
        total += len(blocks)
    layers: dict[str, tuple[int, int]] = {}
    passed = 0  # the layer of the last block so far
    for name, _ in module.named_parameters():
        inside = next((prefix for prefix in first if name.startswith(prefix + ".")), None)
        if inside is not None:
            layer = passed = first[inside] + int(name[len(inside) + 1 :].split(".", 1)[0])
        else:
            layer = total + 1 if passed == total else passed
        layers[name] = (layer, total + 1) if total else (0, 0)
    return layers


def make_optimizer(graph: Graph, config: TrainConfig) -> torch.optim.AdamW:
    """Build one AdamW with a group per (module, layer when it has layer decay, decayed or not).

    A group's ``lr_scale`` is the module's ``lr_scale`` times ``layer_decay ** (L + 1 - layer)``
    (MAE, BEiT); with ``layer_ends`` joined ``layer_decay ** (L - layer)``, where the stem has the
    layer of the first block and what follows the last block that of the last (RAVEn).
    Parameters with one dimension or none (biases, norms, scales) are decayed only where
    ``config.decayed`` is "all".
    """
    groups: dict[str, dict] = {}
    layers = {
        module: layer_of(graph.get_submodule(module))
        for module, options in graph.options.items()
        if options.layer_decay is not None
    }
    for module, name, parameter in trained_parameters(graph):
        options = graph.options[module]
        key, scale = module, options.lr_scale
        if module in layers:
            layer, last = layers[module][name[len(module) + 1 :]]
            if options.layer_ends == "joined" and last:
                last -= 1
                layer = min(max(layer, 1), last)
            key, scale = f"{module}.layer{layer}", scale * options.layer_decay ** (last - layer)
        decayed = parameter.ndim > 1 or config.decayed == "all"
        key = key if decayed else f"{key}.no_decay"
        group = groups.setdefault(
            key,
            {
                "name": key,
                "params": [],
                "lr_scale": scale,
                "weight_decay": config.weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(list(groups.values()), 1.0, betas, config.eps, fused=True)


def peak_lr(config: TrainConfig, batch: int) -> float:
    """The highest learning rate: ``lr`` itself, or ``lr x batch / 256`` where ``lr_rule`` says
    so."""
    return config.lr * batch / 256 if config.lr_rule == "per_256" else config.lr


def learning_rate(step: int, *, peak: float, minimum: float, warmup: int, steps: int) -> float:
    """Linear warm-up over `warmup` steps, then half a cosine down to `minimum` at the last step
    (AudioMAE `lr_sched`).

    Step 0 already moves: it gets ``peak / warmup``, where the epoch-wise original starts at 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    return minimum + (peak - minimum) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip_gradients(graph: Graph, clip: float | None) -> dict[str, Tensor]:
    """Clip the gradient of each trained module, or of all modules of a ``clip_group`` together, to
    the norm `clip`; return the norm of each module before clipping.

    Per module, so that a tower with large gradients does not shrink the steps of the others.
    """
    norms: dict[str, Tensor] = {}
    groups: dict[str, dict[str, list[Tensor]]] = {}  # group -> module -> gradients
    for module, parameters in by_module(graph).items():
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            norms[module] = norm_of(gradients)
            group = graph.options[module].clip_group or module
            groups.setdefault(group, {})[module] = [local(gradient) for gradient in gradients]
    if clip is None:
        return norms
    for members in groups.values():
        own = [norms[module] for module in members]
        norm = own[0] if len(own) == 1 else torch.stack(own).norm()
        factor = (clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([g for gradients in members.values() for g in gradients], factor)
    return norms


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The 2-norm of all values together, over all ranks for sharded tensors."""
    return full(torch.nn.utils.get_total_norm(tensors))


def by_module(graph: Graph) -> dict[str, list[nn.Parameter]]:
    """Trained parameters of each graph module."""
    modules: dict[str, list[nn.Parameter]] = {}
    for module, _, parameter in trained_parameters(graph):
        modules.setdefault(module, []).append(parameter)
    return modules


def snapshot(graph: Graph) -> dict[str, list[Tensor]]:
    """Copies of the trained parameters by module, for `update_norms`."""
    return {
        module: [p.detach().clone() for p in group] for module, group in by_module(graph).items()
    }


@torch.no_grad()
def update_norms(graph: Graph, before: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """How far each module's parameters moved since `before`: the 2-norm of the difference."""
    return {
        module: norm_of([now - then for now, then in zip(group, before[module], strict=True)])
        for module, group in by_module(graph).items()
    }
