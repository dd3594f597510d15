"""Regression of a teacher's features by their direction (RAVEn, arXiv 2212.06246, 3.3).

Letters: B batch, T frames, V real frames, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.ops.frames import take_frames
from avssl.ops.gather import sum_over_ranks
from avssl.ops.precision import at_least_float32
from avssl.ops.random import rank_and_world
from avssl.registry import register


@register("negative_cosine")
class NegativeCosine(nn.Module):
    """The mean over frames of -cos(prediction, target), from -1 (the same direction) to 1.

    The mean is over the frames of all ranks: what a rank returns is its sum over the mean number of
    frames per rank, so that gradients averaged over ranks are those of one process. No gradient
    reaches the target.

    Args:
        tokens: "masked" counts masked frames alone, "valid" every real frame.

    Example::

        loss = NegativeCosine(tokens="valid")(prediction, target)  # [2, 50, 512] both
    """

    outputs = ("loss",)

    def __init__(self, *, tokens: Literal["masked", "valid"]) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        """prediction, target: [B, T, D]; mask: [B, T], 1 where masked; frames: int64 [V]. Returns
        a scalar, float32 or what has more digits."""
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction {list(prediction.shape)} and target {list(target.shape)} differ"
            )
        if (mask is None) == (self.tokens == "masked"):
            raise ValueError("negative_cosine reads a mask with tokens: masked, and only then")
        found, wanted = (
            take_frames(at_least_float32(x), frames) for x in (prediction, target.detach())
        )  # [V, D] each
        cosine = F.cosine_similarity(found, wanted, dim=-1)  # [V]
        counts = torch.ones_like(cosine) if mask is None else take_frames(mask.float(), frames)
        everywhere = sum_over_ranks(counts.sum()) / rank_and_world()[1]  # []
        return -(cosine * counts).sum() / everywhere
