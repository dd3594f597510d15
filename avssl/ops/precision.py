"""Arithmetic whose rounding matters is done in float32 at least, whatever autocast makes of the
rest."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is where it has more digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
