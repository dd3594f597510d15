"""Moving tokens about: CLS, keeping, restoring, joining two streams, pooling.

Letters: B batch, N tokens of the full grid, K kept tokens, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
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
        std: of their first values; MoCo v3 (arXiv 2104.02057) has 1e-6.

    Example::

        cls = ClsToken(width=768)
        cls.init_weights()
        cls(torch.zeros(2, 102, 768)).shape  # [2, 103, 768]
    """

    outputs = ("tokens",)

    def __init__(self, *, width: int, count: int = 1, std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.cls_token = nn.Parameter(torch.empty(1, count, width))

    def init_weights(self) -> None:
        nn.init.normal_(self.cls_token, std=self.std)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, K, D]. Returns [B, P + K, D]."""
        cls = self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype)  # [B, P, D]
        return torch.cat([cls, x], dim=1)  # [B, P + K, D]


@register("restore_tokens")
class RestoreTokens(nn.Module):
    """Fills the places of dropped tokens with a learned mask token, in the original order.

    Args:
        width: D.
        prefix: tokens in front of the patches, P.

    Example::

        restore = RestoreTokens(width=512)
        restore.init_weights()
        restore(torch.zeros(2, 1 + 102, 512), masks["restore"]).shape  # [2, 1 + 512, 512]
    """

    outputs = ("tokens",)

    def __init__(self, *, width: int, prefix: int = 1) -> None:
        super().__init__()
        self.prefix = prefix
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))

    def init_weights(self) -> None:
        init_token(self.mask_token)

    def forward(self, x: Tensor, restore: Tensor) -> Tensor:
        """x: [B, P + K, D]; restore: int64 [B, N] of a masker. Returns [B, P + N, D]."""
        front, seen = x[:, : self.prefix], x[:, self.prefix :]
        missing = restore.shape[1] - seen.shape[1]
        masked = self.mask_token.expand(x.shape[0], missing, -1).to(x.dtype)  # [B, N - K, D]
        patches = gather_tokens(torch.cat([seen, masked], dim=1), restore)  # [B, N, D]
        return torch.cat([front, patches], dim=1)  # [B, P + N, D]


@register("drop_cls")
class DropCls(nn.Module):
    """Drops the tokens in front.

    Args:
        prefix: how many, P.

    Example::

        DropCls()(torch.zeros(2, 513, 768)).shape  # [2, 512, 768]
    """

    outputs = ("tokens",)

    def __init__(self, *, prefix: int = 1) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, P + N, D]. Returns [B, N, D]."""
        return x[:, self.prefix :]


@register("pool_tokens")
class PoolTokens(nn.Module):
    """The mean over tokens without those in front, or the first of these.

    Args:
        prefix: tokens in front, P.
        kind: mean | cls.

    Example::

        PoolTokens()(torch.zeros(2, 513, 768)).shape  # [2, 768]
    """

    outputs = ("pooled",)

    def __init__(self, *, prefix: int = 1, kind: Literal["mean", "cls"] = "mean") -> None:
        super().__init__()
        if kind == "cls" and prefix == 0:
            raise ValueError(
                "pool_tokens: kind cls takes the first of the tokens in front; prefix is 0"
            )
        self.prefix, self.kind = prefix, kind

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, P + N, D]. Returns [B, D]."""
        return x[:, 0] if self.kind == "cls" else x[:, self.prefix :].mean(dim=1)


@register("clip_pictures")
class ClipPictures(nn.Module):
    """Every n-th picture of a clip, as a batch of clips of one picture: what an image teacher sees
    of a clip (MVD, arXiv 2212.04500, 3.3).

    Args:
        every: n.
        size: S, side of the pictures in pixels, to which they are resized bilinearly; None: as they
            are. A teacher whose patches have 14 pixels has as many at 196 as others at 224.

    Example::

        ClipPictures(every=2)(torch.zeros(2, 3, 16, 224, 224)).shape  # [16, 3, 1, 224, 224]
    """

    outputs = ("pictures",)

    def __init__(self, *, every: int = 1, size: int | None = None) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"clip_pictures: every is {every}; it must be 1 or more")
        if size is not None and size < 1:
            raise ValueError(f"clip_pictures: size is {size} pixels; it must be 1 or more")
        self.every, self.size = every, size

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, T, H, W]. Returns [B * ceil(T / n), C, 1, H, W], a clip's pictures in order, or
        [B * ceil(T / n), C, 1, S, S]."""
        pictures = x[:, :, :: self.every].transpose(1, 2).flatten(0, 1)  # [B * T, C, H, W]
        if self.size is not None and pictures.shape[2:] != (self.size, self.size):
            side = (self.size, self.size)
            pictures = F.interpolate(pictures, side, mode="bilinear", antialias=True)
        return pictures.unsqueeze(2)


@register("join_pictures")
class JoinPictures(nn.Module):
    """The tokens of the pictures that ``clip_pictures`` gave, clip by clip again.

    Example::

        JoinPictures()(torch.zeros(16, 196, 768), torch.zeros(2, 3, 16, 224, 224)).shape
        # [2, 8 * 196, 768]
    """

    outputs = ("tokens",)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """x: [B * T, N, D]; like: [B, ...], the clips. Returns [B, T * N, D], t slowest."""
        return x.unflatten(0, (like.shape[0], -1)).flatten(1, 2)


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
