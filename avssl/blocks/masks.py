"""Maskers: which patches the encoder sees.

Letters: B batch, N patches, K kept patches; a cell is one patch or several.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from avssl.ops.patches import check_patch, patch_grid
from avssl.ops.random import batch_uniform
from avssl.registry import register


@register("random_mask")
class RandomMask(nn.Module):
    """Hides a fixed share of the patches, drawn per sample without structure (arXiv 2111.06377), or
    in cells of several patches: tubes through time as VideoMAE (arXiv 2203.12602), squares of
    32 pixels as SimMIM (arXiv 2111.09886).

    Args:
        ratio: share of hidden cells, above 0, below 1.
        patch: lengths of a patch along the axes of the input behind batch and channels.
        cell: lengths of what is hidden or kept as a whole, multiples of the patch's; 0 is the whole
            axis, so that [0, 16, 16] are tubes. None: each patch is one.
        kept: floor | ceil of cells * (1 - ratio); MAE and SimMIM round down, VideoMAE up.

    Example::

        masks = RandomMask(ratio=0.8, patch=[16, 16])(torch.zeros(2, 1, 1024, 128))
        masks["keep"].shape  # [2, 102]
    """

    outputs = ("keep", "restore", "mask")

    def __init__(
        self,
        *,
        ratio: float,
        patch: list[int],
        cell: list[int] | None = None,
        kept: Literal["floor", "ceil"] = "floor",
    ) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise ValueError(
                f"random_mask hides a share of the patches above 0 and below 1, not {ratio}"
            )
        self.ratio, self.patch, self.kept = ratio, list(patch), kept
        self.cell = list(patch) if cell is None else list(cell)
        check_patch(patch)
        if len(self.cell) != len(self.patch) or any(
            c < 0 or c % p for c, p in zip(self.cell, self.patch, strict=True)
        ):
            raise ValueError(f"random_mask: cell {cell} is no multiple of the patch {patch}")

    def count(self, cells: int) -> int:
        """Kept cells. The small number takes up binary rounding: 10 * (1 - 0.8) is below 2."""
        share = cells * (1 - self.ratio)
        return math.floor(share + 1e-6) if self.kept == "floor" else math.ceil(share - 1e-6)

    def forward(self, like: Tensor) -> dict[str, Tensor]:
        """Draw one mask per sample.

        Args:
            like: [B, C, *size], read for its shape and device alone.

        Returns:
            keep: int64 [B, K], indices of the kept patches.
            restore: int64 [B, N], the place of patch i in (kept, hidden).
            mask: float32 [B, N], 1 where hidden.

        Raises:
            ValueError: no cell would be kept, or none hidden.
        """
        size = like.shape[2:]
        grid = patch_grid(size, self.patch)
        cell = [c or s for c, s in zip(self.cell, size, strict=True)]
        cells, patches = math.prod(patch_grid(size, cell)), math.prod(grid)
        kept = self.count(cells)
        if kept == 0:
            raise ValueError(f"ratio {self.ratio} keeps none of {cells} patches: lower it")
        if kept == cells:
            raise ValueError(f"ratio {self.ratio} hides none of {cells} patches: raise it")
        noise = batch_uniform(like.shape[0], cells, device=like.device)  # [B, cells]
        if cells != patches:
            noise = self._spread(noise, grid, cell)  # [B, N]
        order = noise.argsort(dim=1, stable=True)  # [B, N], kept patches first
        restore = order.argsort(dim=1)  # [B, N]
        seen = kept * (patches // cells)
        mask = (restore >= seen).to(torch.float32)  # [B, N]
        return {"keep": order[:, :seen], "restore": restore, "mask": mask}

    def _spread(self, noise: Tensor, grid: list[int], cell: list[int]) -> Tensor:
        """From cells to the patches in them: [B, cells] to [B, N]."""
        per = [c // p for c, p in zip(cell, self.patch, strict=True)]
        noise = noise.unflatten(1, [g // n for g, n in zip(grid, per, strict=True)])
        for axis, count in enumerate(per):
            noise = noise.repeat_interleave(count, dim=axis + 1)
        return noise.flatten(1)
