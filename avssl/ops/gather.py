"""Across ranks: gathering a batch with its gradient, sums and smallest values without."""

import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_tensor_autograd, all_reduce

from avssl.ops.random import rank_and_world


def gather_batch(x: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; ``x`` itself without a process group.

    The gradient of a row is the sum over ranks. With a loss that is a mean over each rank's own
    rows and gradients averaged over ranks (DDP, FSDP2), the result equals that of one process.
    PyTorch's functional collective is used because in-place ones lose the gradient, silently, when
    ``torch.compile`` traces them inside an autograd function.

    Args:
        x: [B, ...], the same shape on every rank.

    Returns:
        [world * B, ...].
    """
    _, world = rank_and_world()
    if world == 1 or x.device.type == "meta":
        return x
    assert dist.group.WORLD is not None
    return all_gather_tensor_autograd(x, 0, dist.group.WORLD)


def global_offset(rows: int) -> int:
    """The index of this rank's first row in the global batch."""
    rank, _ = rank_and_world()
    return rank * rows


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of ``x`` over all ranks, without gradient; ``x`` itself without a process group."""
    return _reduced(x, "sum")


def least_over_ranks(x: Tensor) -> Tensor:
    """The smallest ``x`` of all ranks, without gradient; ``x`` itself without a process group."""
    return _reduced(x, "min")


def _reduced(x: Tensor, operation: str) -> Tensor:
    x = x.detach()
    _, world = rank_and_world()
    if world == 1 or x.device.type == "meta":
        return x
    assert dist.group.WORLD is not None
    return all_reduce(x, operation, dist.group.WORLD)
