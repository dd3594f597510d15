"""Sharded tensors (FSDP2) and whole ones, handled alike."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor, or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, which every rank must ask for, or the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
