"""Reconstruction losses over masked tokens (MAE, arXiv 2111.06377).

Letters: B batch, N tokens, P values of a token.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from avssl.registry import register


@register("masked_mse")
class MaskedMse(nn.Module):
    """The mean over masked tokens of the mean squared error of their values.

    No gradient reaches the target.

    Args:
        tokens: "masked" counts hidden tokens alone, "all" counts every token.

    Example::

        loss = MaskedMse()(prediction, target, mask)  # [2, 512, 256], the same, [2, 512]
    """

    outputs = ("loss",)

    def __init__(self, *, tokens: Literal["masked", "all"] = "masked") -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """prediction, target: [B, N, P]; mask: [B, N], 1 where hidden. Returns a float32 scalar."""
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction {list(prediction.shape)} and target {list(target.shape)} differ"
            )
        error = F.mse_loss(prediction.float(), target.detach().float(), reduction="none")
        error = error.mean(-1)  # [B, N]
        return error.mean() if self.tokens == "all" else (error * mask).sum() / mask.sum()
