"""Maskers: which patches the encoder sees.

Letters: B batch, N patches, K kept patches.
"""

import math

import torch
from torch import Tensor, nn

from avssl.ops.patches import patch_grid
from avssl.ops.random import batch_uniform
from avssl.registry import register


@register("random_mask")
class RandomMask(nn.Module):
    """Hides a fixed share of the patches, drawn per sample without structure (arXiv 2111.06377).

    Args:
        ratio: share of hidden patches, above 0, below 1; floor(N * (1 - ratio)) are kept.
        patch: lengths of a patch along the axes of the input behind batch and channels.

    Example::

        masks = RandomMask(ratio=0.8, patch=[16, 16])(torch.zeros(2, 1, 1024, 128))
        masks["keep"].shape  # [2, 102]
    """

    outputs = ("keep", "restore", "mask")

    def __init__(self, *, ratio: float, patch: list[int]) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise ValueError(
                f"random_mask hides a share of the patches above 0 and below 1, not {ratio}"
            )
        self.ratio, self.patch = ratio, list(patch)

    def count(self, patches: int) -> int:
        """Kept patches. The small number takes up binary rounding: 10 * (1 - 0.8) is below 2."""
        return math.floor(patches * (1 - self.ratio) + 1e-6)

    def forward(self, like: Tensor) -> dict[str, Tensor]:
        """Draw one mask per sample.

        Args:
            like: [B, C, *size], read for its shape and device alone.

        Returns:
            keep: int64 [B, K], indices of the kept patches.
            restore: int64 [B, N], the place of patch i in (kept, hidden).
            mask: float32 [B, N], 1 where hidden.

        Raises:
            ValueError: no patch would be kept, or none hidden.
        """
        patches = math.prod(patch_grid(like.shape[2:], self.patch))
        kept = self.count(patches)
        if kept == 0:
            raise ValueError(f"ratio {self.ratio} keeps none of {patches} patches: lower it")
        if kept == patches:
            raise ValueError(f"ratio {self.ratio} hides none of {patches} patches: raise it")
        noise = batch_uniform(like.shape[0], patches, device=like.device)  # [B, N]
        order = noise.argsort(dim=1)  # [B, N], kept patches first
        restore = order.argsort(dim=1)  # [B, N]
        mask = (restore >= kept).to(torch.float32)  # [B, N]
        return {"keep": order[:, :kept], "restore": restore, "mask": mask}
