"""Moving tokens about: CLS, keeping, restoring, joining two streams, pooling.

Letters: B batch, N tokens of the full grid, K kept tokens, D width.
"""

import torch
from torch import Tensor, nn

from avssl.blocks.init import init_token
from avssl.registry import register


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """The tokens of ``x`` [B, N, D] at ``index`` [B, K]. Returns [B, K, D]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


@register("cls_token")
class ClsToken(nn.Module):
    """Puts learned tokens in front; after the positions, where their own position code is zero.

    Args:
        width: D.
        count: tokens, P; a CLS and a distillation token are 2.

    Example::

        cls = ClsToken(width=768)
        cls.init_weights()
        cls(torch.zeros(2, 102, 768)).shape  # [2, 103, 768]
    """

    outputs = ("tokens",)

    def __init__(self, *, width: int, count: int = 1) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, count, width))

    def init_weights(self) -> None:
        init_token(self.cls_token)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, K, D]. Returns [B, P + K, D]."""
        cls = self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype)  # [B, P, D]
        return torch.cat([cls, x], dim=1)  # [B, P + K, D]


@register("restore_tokens")
class RestoreTokens(nn.Module):
    """Fills the places of dropped tokens with a learned mask token, in the original order.

    Args:
        width: D.

    Example::

        restore = RestoreTokens(width=512)
        restore.init_weights()
        restore(torch.zeros(2, 1 + 102, 512), masks["restore"]).shape  # [2, 1 + 512, 512]
    """

    outputs = ("tokens",)

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))

    def init_weights(self) -> None:
        init_token(self.mask_token)

    def forward(self, x: Tensor, restore: Tensor) -> Tensor:
        """x: [B, 1 + K, D], CLS first; restore: int64 [B, N] of a masker. Returns [B, 1 + N, D]."""
        missing = restore.shape[1] + 1 - x.shape[1]
        masked = self.mask_token.expand(x.shape[0], missing, -1).to(x.dtype)  # [B, N - K, D]
        patches = gather_tokens(torch.cat([x[:, 1:], masked], dim=1), restore)  # [B, N, D]
        return torch.cat([x[:, :1], patches], dim=1)  # [B, 1 + N, D]


@register("drop_cls")
class DropCls(nn.Module):
    """Drops the leading CLS token.

    Example::

        DropCls()(torch.zeros(2, 513, 768)).shape  # [2, 512, 768]
    """

    outputs = ("tokens",)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 1 + N, D]. Returns [B, N, D]."""
        return x[:, 1:]


@register("mean_pool")
class MeanPool(nn.Module):
    """The mean over tokens, without the leading CLS token.

    Args:
        prefix: tokens in front that are left out, P.

    Example::

        MeanPool()(torch.zeros(2, 513, 768)).shape  # [2, 768]
    """

    outputs = ("pooled",)

    def __init__(self, *, prefix: int = 1) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, P + N, D]. Returns [B, D]."""
        return x[:, self.prefix :].mean(dim=1)


@register("add_vector")
class AddVector(nn.Module):
    """Adds a learned vector to all tokens, which tells their modality (CAV-MAE, arXiv 2210.07839).

    Example::

        add = AddVector(width=768)
        add.init_weights()
        add(torch.zeros(2, 512, 768)).shape  # [2, 512, 768]
    """

    outputs = ("tokens",)

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(1, 1, width))

    def init_weights(self) -> None:
        init_token(self.vector)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, N, D]. Returns the same shape."""
        return x + self.vector


@register("concat_tokens")
class ConcatTokens(nn.Module):
    """Joins two streams of tokens into one sequence.

    Example::

        ConcatTokens()(torch.zeros(2, 103, 768), torch.zeros(2, 157, 768)).shape  # [2, 260, 768]
    """

    outputs = ("tokens",)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a: [B, N, D], b: [B, M, D]. Returns [B, N + M, D]."""
        return torch.cat([a, b], dim=1)


@register("split_tokens")
class SplitTokens(nn.Module):
    """Undoes ``concat_tokens``: the first part is as long as ``like``.

    Example::

        parts = SplitTokens()(torch.zeros(2, 260, 768), torch.zeros(2, 103, 768))
        parts["a"].shape, parts["b"].shape  # [2, 103, 768], [2, 157, 768]
    """

    outputs = ("a", "b")

    def forward(self, x: Tensor, like: Tensor) -> dict[str, Tensor]:
        """x: [B, N + M, D], like: [B, N, ...]. Returns a [B, N, D] and b [B, M, D]."""
        length = like.shape[1]
        return {"a": x[:, :length], "b": x[:, length:]}
