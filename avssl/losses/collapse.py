"""Whether a teacher's features collapse: figures for the log.

Letters: B batch, T frames, V real frames, D width.
"""

import torch
from torch import Tensor, nn

from avssl.ops.frames import take_frames
from avssl.ops.gather import sum_over_ranks
from avssl.registry import register


@register("collapse")
class Collapse(nn.Module):
    """Spread and rank of features over the real frames of all ranks. No gradient.

    Both come from one matrix of products, [D + 1, D + 1], which ranks add up.

    Example::

        Collapse()(torch.randn(8, 50, 512))  # std about 1, rank about 390
    """

    outputs = ("std", "rank")

    @torch.no_grad()
    def forward(self, x: Tensor, frames: Tensor | None = None) -> dict[str, Tensor]:
        """x: [B, T, D]; frames: int64 [V].

        Returns:
            std: standard deviation of a channel over frames, the mean over channels; 0 when
                collapsed.
            rank: RankMe (arXiv 2210.02885), the exponential of the entropy of the singular values
                of the frames' features; from 1, when collapsed, to D.
        """
        packed = take_frames(x.double(), frames)  # [V, D]
        packed = torch.cat([packed, packed.new_ones(packed.shape[0], 1)], dim=1)  # [V, D + 1]
        products = sum_over_ranks(packed.T @ packed)  # [D + 1, D + 1]
        count, sums, products = products[-1, -1], products[-1, :-1], products[:-1, :-1]
        variance = products.diagonal() / count - (sums / count).square()  # [D]
        singular = torch.linalg.eigvalsh(products).clamp(min=0).sqrt()  # [D]
        share = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
        return {
            "std": variance.clamp(min=0).sqrt().mean().float(),
            "rank": torch.special.entr(share).sum().exp().float(),
        }
