"""EMA teachers: after every step a teacher moves a little towards the module it copies (data2vec,
RAVEn, MoCo v3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from avssl.train.sharding import local

if TYPE_CHECKING:
    from torch import nn

    from avssl.graph import Graph


@torch.no_grad()
def update_teachers(graph: Graph, progress: float) -> dict[str, float]:
    """Move every EMA teacher: ``teacher = m * teacher + (1 - m) * student`` for parameters.

    Buffers are copied, but not to a teacher that normalises by the statistics of its own batches.

    Teacher and student are sharded alike, so each rank moves its own shards and nothing is sent.
    Frozen teachers have no entry in ``graph.teachers`` and never change.

    Args:
        graph: its ``teachers`` name the source module and the momentum schedule of each teacher.
        progress: 0 at the first step of the stage, 1 at the last.

    Returns:
        The momentum used for each teacher.
    """
    momenta: dict[str, float] = {}
    for name, teacher in graph.teachers.items():
        momentum = teacher.momentum(progress)
        target, source = graph.get_submodule(name), graph.get_submodule(teacher.source)
        torch._foreach_lerp_(_parameters(target), _parameters(source), 1.0 - momentum)
        if teacher.statistics == "running":
            for to, original in zip(target.buffers(), source.buffers(), strict=True):
                local(to).copy_(local(original))
        momenta[name] = momentum
    return momenta


def _parameters(module: nn.Module) -> list[Tensor]:
    return [local(parameter.detach()) for parameter in module.parameters()]
