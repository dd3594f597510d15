"""The training step: all that happens between two batches."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from avssl.errors import UserError
from avssl.train.optimizer import (
    clip_gradients,
    learning_rate,
    set_learning_rate,
    snapshot,
    trained_parameters,
    update_norms,
)
from avssl.train.sharding import local
from avssl.train.teachers import update_teachers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from avssl.graph import Graph
    from avssl.train.parallel import World


@dataclass(frozen=True)
class Recipe:
    """The numbers a step needs, worked out from the experiment.

    Attributes:
        seed: of this stage; a step draws from it and its own number only, so nothing random has to
            be saved.
        steps, warmup: steps of the stage and of its warm-up.
        peak, minimum: learning rate after the warm-up and at the last step.
        clip: largest gradient norm of a module, None for no clipping.
        bf16: run the forward pass under bf16 autocast.
        log_every: steps between two measurements of how far the parameters moved.
    """

    seed: int
    steps: int
    warmup: int
    peak: float
    minimum: float
    clip: float | None
    bf16: bool
    log_every: int

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The precision of the forward pass."""
        return torch.autocast(device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def train_step(
    graph: Graph,
    batch: dict[str, Tensor],
    *,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    world: World,
    targets: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Do one optimisation step and return its figures, the mean over all processes.

    Args:
        graph: the graph; `model` is the same one as it is called (wrapped for DDP).
        batch: this process's share, on the device: inputs of the graph, [B, ...].
        step: number of the step, from 0.
        targets: what a teacher cache knows of the batch, ``node.port`` -> [B, ...].

    Raises:
        UserError: a loss or a gradient is not finite. The weights are as they were before the step.
    """
    torch.manual_seed(recipe.seed + step)
    logged = {n: log.sources["value"].key for n, log in graph.log.items() if log.picture is None}
    # 1. schedules: learning rate, loss weights
    progress = step / max(recipe.steps - 1, 1)
    lr = learning_rate(
        step, peak=recipe.peak, minimum=recipe.minimum, warmup=recipe.warmup, steps=recipe.steps
    )
    set_learning_rate(optimizer, lr)
    weights = {name: loss.weight(progress) for name, loss in graph.losses.items()}
    # 2. forward and losses
    with recipe.autocast(world.device):
        out = model(batch, outputs=[*weights, *logged.values()], given=targets)
    total = sum(weight * out[name].float() for name, weight in weights.items())
    # 3. backward and clip
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    norms = clip_gradients(graph, recipe.clip)
    figures = {"loss": total, **{f"loss/{name}": out[name] for name in weights}}
    figures |= {f"log/{name}": out[key] for name, key in logged.items()}
    figures |= {f"grad/{module}": norm for module, norm in norms.items()}
    figures["grad_norm"] = torch.stack(list(norms.values())).norm()
    metrics = _read(figures, world)
    _must_be_finite(metrics, graph, step)
    # 4. optimizer
    before = snapshot(graph) if (step + 1) % recipe.log_every == 0 else None
    optimizer.step()
    # 5. teachers
    momenta = update_teachers(graph, progress)
    # 6. metrics
    if before is not None:
        moved = {f"update/{module}": norm for module, norm in update_norms(graph, before).items()}
        metrics |= _read(moved, world)
    moving = [name for name in weights if graph.losses[name].weight.kind != "constant"]
    metrics |= {f"weight/{name}": weights[name] for name in moving}
    metrics |= {f"momentum/{name}": momentum for name, momentum in momenta.items()}
    return {**metrics, "lr": lr}


def _read(figures: dict[str, Tensor], world: World) -> dict[str, float]:
    """Bring scalars from the device to numbers, averaged over processes, in one transfer."""
    stacked = torch.stack(
        [figure.detach().to(world.device, torch.float32).reshape(()) for figure in figures.values()]
    )
    return dict(zip(figures, world.mean(stacked).tolist(), strict=True))


def _must_be_finite(metrics: dict[str, float], graph: Graph, step: int) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    losses = [name.removeprefix("loss/") for name in bad if name.startswith("loss/")]
    if losses or "loss" in bad:
        raise UserError(
            f"the loss {' and '.join(losses) or 'as a whole'} is not finite at step {step + 1}. "
            "The weights were not changed by this step and earlier checkpoints are intact. "
            "Lower train.lr, lengthen train.warmup or set train.clip, and give another run folder."
        )
    modules = [name.removeprefix("grad/") for name in bad if name.startswith("grad/")]
    if modules:
        names = [
            name
            for _, name, parameter in trained_parameters(graph)
            if parameter.grad is not None and not local(parameter.grad).isfinite().all()
        ]
        raise UserError(
            f"the gradient of {' and '.join(modules)} is not finite at step {step + 1}, although "
            f"the losses are: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}. "
            "The weights were not changed by this step and earlier checkpoints are intact."
        )
