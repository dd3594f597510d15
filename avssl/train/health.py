"""What the first real steps should have done: trained parameters got a gradient, teachers followed,
frozen ones stayed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from avssl.train.optimizer import trained_parameters
from avssl.train.sharding import full, local

if TYPE_CHECKING:
    from torch import Tensor

    from avssl.graph import Graph


STEPS = 8  # in which each trained parameter should get a gradient: a step may drop a modality


def before_step(graph: Graph) -> dict[str, Tensor]:
    """Copies of everything that is not trained: teachers and frozen modules."""
    return {
        f"{module}.{name}": local(parameter.detach()).clone()
        for module in sorted(graph.frozen)
        for name, parameter in graph.get_submodule(module).named_parameters()
    }


@torch.no_grad()
def after_step(graph: Graph, before: dict[str, Tensor], momenta: dict[str, float]) -> list[str]:
    """Look at a graph's teachers and frozen modules right after a step, gradients still in place.

    Args:
        before: what `before_step` gave.
        momenta: teacher -> momentum the step used.

    Returns:
        One sentence for each kind of trouble, with the names of the parameters; empty when all is
        well.
    """
    findings: list[str] = []
    for module in sorted(graph.frozen):
        names = {
            name: local(p.detach()) for name, p in graph.get_submodule(module).named_parameters()
        }
        if module in graph.teachers:
            source = dict(graph.get_submodule(graph.teachers[module].source).named_parameters())
            m = momenta[module]
            expected = {
                n: m * before[f"{module}.{n}"] + (1 - m) * local(source[n].detach()) for n in names
            }
            strayed = [
                f"{module}.{n}"
                for n, p in names.items()
                if not torch.allclose(p, expected[n], atol=1e-6)
            ]
            if strayed:
                findings.append(
                    "teacher parameters are not momentum x old + (1 - momentum) x student after "
                    f"the first step: {_some(strayed)}"
                )
        else:
            moved = [
                f"{module}.{n}"
                for n, p in names.items()
                if not torch.equal(p, before[f"{module}.{n}"])
            ]
            if moved:
                findings.append(f"frozen parameters moved: {_some(moved)}")
        with_gradient = [
            f"{module}.{n}"
            for n, p in graph.get_submodule(module).named_parameters()
            if p.grad is not None
        ]
        if with_gradient:
            findings.append(f"{_some(with_gradient)} should not be trained, but got a gradient")
    return findings


@torch.no_grad()
def without_gradient(graph: Graph) -> set[str]:
    """Names of the trained parameters whose gradient right after a step is missing or zero."""
    trained = trained_parameters(graph)
    return {name for _, name, p in trained if p.grad is None or not bool(full(p.grad).any())}


def untouched(names: set[str], steps: int) -> str:
    """The sentence about parameters that were `without_gradient` in each of the first steps."""
    first = "the first step" if steps == 1 else f"any of the first {steps} steps"
    return f"no gradient, or one of zeros, in {first}: {_some(sorted(names))}"


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
