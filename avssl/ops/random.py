"""Random draws that do not depend on how many ranks share the batch."""

import math

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def batch_uniform(batch: int, n: int, *, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) for this rank's rows of the global batch.

    Every rank draws for the whole global batch from the default generator of ``device`` (all ranks
    seed it alike) and keeps its own rows, so that several ranks see the numbers one process would.

    Ranks stay in step as long as each takes as many numbers from the generator as the others: what
    is drawn in training must not have a shape that depends on the rank's own clips, as the number
    of its real frames does (``batch_dropout`` minds that). Dropout inside the attention kernel is
    drawn for the rank's own rows: ranks stay in step, but do not see the numbers of one process.

    Args:
        batch: rows of this rank.
        n: numbers per row.
        device: where to draw; meta draws nothing.

    Returns:
        float32 [batch, n].
    """
    rank, world = rank_and_world()
    noise = torch.rand(batch * world, n, device=device)  # [B * world, n]
    return noise[rank * batch : (rank + 1) * batch]  # [B, n]


def batch_dropout(
    x: Tensor, rate: float, *, frames: Tensor | None = None, places: int | None = None
) -> Tensor:
    """Dropout of this rank's rows of the global batch, or of its real frames.

    Numbers are drawn for padding too, so that every rank draws as many, and a frame gets the ones
    it would get in one process.

    Args:
        x: [B, ...]; or packed frames [V, ...], those of ``frames``.
        rate: share of zeros, below 1; the caller gives 0 in eval mode.
        frames: int64 [V], of ``places`` = B * T; None: rows of ``x`` are the places.

    Returns:
        x's shape.
    """
    if rate == 0:
        return x
    rows = x.shape[0] if frames is None or places is None else places
    noise = batch_uniform(rows, math.prod(x.shape[1:]), device=x.device)  # [B, n] or [B * T, n]
    if frames is not None:
        noise = noise.index_select(0, frames)  # [V, n]
    return (x / (1 - rate)).masked_fill((noise < rate).view_as(x), 0.0)
