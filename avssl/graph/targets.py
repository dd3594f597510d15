"""What frozen teachers make of a clip, as far as it is the same at every step.

A value is *settled* when it follows from the batch through frozen teachers and blocks without
weights that draw nothing. The targets of a graph are the settled values that come from a teacher
and are read by something that is not settled: a loss, or a node that trains or draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from avssl.errors import UserError
from avssl.graph.calls import execute, plan
from avssl.graph.graph import Graph
from avssl.graph.source import Problems
from avssl.graph.spec import GraphSpec

BATCHES = (2, 3)


def settled_targets(spec: GraphSpec) -> dict[str, tuple[int, ...]]:
    """The targets of a graph (``node.port``), and the shape that each has for one clip.

    The graph, which was read and checked before, is run on the meta device.

    Raises:
        UserError: there is no frozen teacher, one of them reads what changes from step to step, a
            target is not one row for each clip, or inputs have no fixed size.
    """
    if spec.free_dimensions:
        raise UserError(f"'{spec.name}' has inputs of any size, and rows on disk have one")
    first, second = (_shapes(spec, batch) for batch in BATCHES)
    for key, shape in first.items():
        if (shape[:1], second[key][:1]) != ((BATCHES[0],), (BATCHES[1],)):
            raise UserError(
                f"'{key}', which comes from a frozen teacher, has the shape {list(shape)} for "
                f"{BATCHES[0]} clips, not a row for each: a loss must read rows of clips"
            )
    return {key: shape[1:] for key, shape in first.items()}


def teachers_of(spec: GraphSpec, targets: Mapping[str, object]) -> list[str]:
    """The frozen teachers that targets come from."""
    calls = plan(spec, list(targets))
    return sorted({call.module for call in calls if call.frozen})


def _shapes(spec: GraphSpec, batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the targets for so many clips."""
    problems = Problems()
    graph = Graph(spec, problems).train()
    problems.raise_if_any()
    logged = [log.sources["value"].key for log in spec.log.values() if log.picture is None]
    calls = plan(spec, [*graph.losses, *logged])
    values: dict[str, Any] = {f"batch.{name}": None for name in spec.inputs}
    for name, item in spec.inputs.items():
        if not item.optional:
            shape = [batch if isinstance(size, str) else size for size in item.shape]
            values[f"batch.{name}"] = torch.zeros(
                shape, dtype=getattr(torch, item.dtype), device="meta"
            )
    settled, taught, targets = set(values), set[str](), dict[str, tuple[int, ...]]()
    for call in calls:
        sources = [key for _, key in call.inputs]
        moving = [key for key in sources if key not in settled]
        if call.frozen and moving:
            raise UserError(
                f"node '{call.name}' asks the frozen teacher '{call.module}' about '{moving[0]}', "
                "which changes from step to step, so there is nothing to keep"
            )
        with _Draws() as draws, torch.no_grad():
            execute((call,), graph._modules, values)
        module = graph.get_submodule(call.module)
        same = call.frozen or not (draws.any or _holds(module) or _mixes(module))
        if moving or not same or call.name in spec.losses:
            read = [key for key in sources if key in taught]
            targets |= {key: tuple(values[key].shape) for key in read}
            continue
        keys = {key for _, key in call.outputs}
        settled |= keys
        if call.frozen or taught.intersection(sources):
            taught |= keys
    targets |= {key: tuple(values[key].shape) for key in logged if key in taught}
    if not targets:
        raise UserError(
            f"'{spec.name}' has no frozen teacher (frozen_from) that a loss learns from"
        )
    return targets


def _holds(module: nn.Module) -> bool:
    """Whether a module has weights, or statistics of batches."""
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _mixes(module: nn.Module) -> bool:
    """Whether what a module makes of a clip hangs on the other clips of the batch."""
    return any(getattr(part, "mixes_clips", False) for part in module.modules())


class _Draws(TorchDispatchMode):
    """Notices random numbers."""

    any = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.any |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))
