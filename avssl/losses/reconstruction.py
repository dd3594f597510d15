"""Regression of the values or features of tokens (MAE, arXiv 2111.06377; MVD, arXiv 2212.04500).

Letters: B batch, N tokens, P values of a token.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from avssl.registry import register

_ERRORS = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


@register("token_regression")
class TokenRegression(nn.Module):
    """The mean over masked tokens of the mean error of their values.

    No gradient reaches the target.

    Args:
        error: mse; l1; smooth_l1, which is x^2 / 2 below 1 and |x| - 1/2 above.
        tokens: "masked" counts hidden tokens alone, "all" counts every token.

    Example::

        loss = TokenRegression()(prediction, target, mask)  # [2, 512, 256], the same, [2, 512]
    """

    outputs = ("loss",)

    def __init__(
        self,
        *,
        error: Literal["mse", "l1", "smooth_l1"] = "mse",
        tokens: Literal["masked", "all"] = "masked",
    ) -> None:
        super().__init__()
        self.error, self.tokens = error, tokens

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """prediction, target: [B, N, P]; mask: [B, N], 1 where hidden, of `masked` alone. Returns a
        float32 scalar."""
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction {list(prediction.shape)} and target {list(target.shape)} differ"
            )
        error = _ERRORS[self.error](prediction.float(), target.detach().float(), reduction="none")
        error = error.mean(-1)  # [B, N]
        if self.tokens == "all":
            return error.mean()
        if mask is None:
            raise ValueError("token_regression with tokens: masked reads a mask")
        return (error * mask).sum() / mask.sum()
