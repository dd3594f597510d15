"""Which patches a tower sees while it is fine-tuned (MAViL, AudioMAE).

Letters: B batch, R rows and S columns of a spectrogram's patches, N patches, K kept patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kept(size: int, share: float) -> int:
    """How many of `size` stay when a share is hidden: floor(size (1 - share)), at least one."""
    return max(1, math.floor(size * (1 - share) + 1e-6))  # 10 (1 - 0.8) is below 2 in binary


def structured_keep(
    batch: int, grid: list[int], *, shares: tuple[float, float], device: torch.device
) -> Tensor:
    """Rows, then columns of a spectrogram's patches are hidden, drawn for each clip.

    Args:
        batch: B.
        grid: rows R and columns S of the patches; rows are times but in a tower that turns the
            spectrogram.
        shares: of hidden rows and columns.

    Returns:
        int64 [B, K], K = floor(R (1 - share)) * floor(S (1 - share)); patch r S + s, rising.
    """
    rows = random_keep(batch, grid[0], share=shares[0], device=device)  # [B, rows]
    columns = random_keep(batch, grid[1], share=shares[1], device=device)  # [B, columns]
    return (rows[:, :, None] * grid[1] + columns[:, None, :]).flatten(1)  # [B, K]


def random_keep(batch: int, size: int, *, share: float, device: torch.device) -> Tensor:
    """A share of `size` things is hidden, drawn for each clip: int64 [B, K], rising."""
    order = torch.rand(batch, size, device=device).argsort(dim=1)  # [B, N]
    return order[:, : kept(size, share)].sort(dim=1).values  # [B, K]
