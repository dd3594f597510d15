"""Arithmetic whose rounding matters is done in float32 at least, whatever autocast makes of the
rest."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is where it has more digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Leaves the precision of what is computed from ``x`` alone; meta tensors may come."""
    return torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False)
