"""Random draws that do not depend on how many ranks share the batch."""

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
