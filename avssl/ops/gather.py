"""Gathering a batch across ranks, with its gradient."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from avssl.ops.random import rank_and_world


class _Gather(torch.autograd.Function):
    """Forward: the rows of all ranks. Backward: the gradients of our rows, summed over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rank, world = rank_and_world()
        ctx.rank, ctx.rows = rank, x.shape[0]
        out = x.new_empty(world * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows]


def gather_batch(x: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; ``x`` itself without a process group.

    The gradient of a row is the sum over ranks. With a loss that is a mean over each rank's own
    rows and gradients averaged over ranks (DDP, FSDP2), the result equals that of one process.

    Args:
        x: [B, ...], the same shape on every rank.

    Returns:
        [world * B, ...].
    """
    _, world = rank_and_world()
    if world == 1 or x.device.type == "meta":
        return x
    return _Gather.apply(x)


def global_offset(rows: int) -> int:
    """The index of this rank's first row in the global batch."""
    rank, _ = rank_and_world()
    return rank * rows
