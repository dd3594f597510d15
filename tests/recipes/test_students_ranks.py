"""MoCo v3, MimCo and DMAE in two processes: training is that of one process with the same clips."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avssl.graph.graph import Graph
from tests.recipes.ranks import Job, two_train_as_one_does
from tests.recipes.students import dmae, mimco, mocov3

CLIPS = 6


def contrast() -> Graph:
    return mocov3()


def student() -> Graph:
    return mimco(patch_negatives="batch")


def masked() -> Graph:
    return dmae()


def share(step: int, rank: int, size: int) -> dict[str, Tensor]:
    """All inputs that any of them reads; negatives are the clips of all processes."""
    random = torch.Generator().manual_seed(step)
    names = ("view1", "view2", "image")
    whole = {name: torch.randn(CLIPS, 3, 1, 32, 32, generator=random) for name in names}
    count = CLIPS // size
    return {name: x[rank * count : (rank + 1) * count] for name, x in whole.items()}


@pytest.mark.parametrize("graph", [contrast, student, masked])
def test_two_ranks_train_as_one_process_does(graph: Callable[[], Graph], tmp_path: Path) -> None:
    figures = two_train_as_one_does(Job(graph, share, {"rtol": 1e-7, "atol": 1e-9}), tmp_path, 2)
    if graph is contrast:
        assert figures[0]["log/negatives"] == CLIPS - 1
