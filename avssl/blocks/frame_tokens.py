"""Frames of clips of different lengths: hiding, filling, clearing, averaging.

Letters: B batch, T frames, V real frames, D width, S side of a picture.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avssl.blocks.batch_norm import BatchNorm
from avssl.blocks.init import init_as_torch, init_token
from avssl.ops.frames import clear_padding, mean_frames, put_frames, take_frames
from avssl.registry import register


@register("hide_frames")
class HideFrames(nn.Module):
    """Sets masked frames of a clip or a waveform to zero.

    Example::

        HideFrames()(torch.ones(2, 1, 50, 88, 88), torch.ones(2, 50))  # zeros
    """

    outputs = ("out",)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: [B, 1, T, S, S] or [B, T, 640]; mask: [B, T], 1 where hidden. Returns x's shape."""
        if mask is None:
            return x
        keep = (1 - mask).to(x.dtype)  # [B, T]
        return x * (keep[:, None, :, None, None] if x.dim() == 5 else keep[:, :, None])


@register("fill_masked")
class FillMasked(nn.Module):
    """Puts a learned vector in the place of masked tokens.

    Args:
        width: D.

    Example::

        fill = FillMasked(width=512)
        fill.init_weights()
        fill(torch.zeros(2, 50, 512), torch.ones(2, 50)).shape  # [2, 50, 512]
    """

    outputs = ("tokens",)

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(width))

    def init_weights(self) -> None:
        init_token(self.token)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: [B, T, D]; mask: [B, T], 1 where masked. Returns [B, T, D]."""
        if mask is None:
            return x
        return torch.where(mask.bool()[:, :, None], self.token.to(x.dtype), x)


@register("clear_padding")
class ClearPadding(nn.Module):
    """Sets what stands behind the end of shorter clips to zero.

    Example::

        ClearPadding()(torch.ones(2, 3, 512), torch.tensor([0, 1, 2, 3]))[1, 1:]  # zeros
    """

    outputs = ("tokens",)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """x: [B, T, D]; frames: int64 [V]. Returns [B, T, D]."""
        return clear_padding(x, frames)


@register("frame_norm")
class FrameNorm(nn.Module):
    """BatchNorm over real frames, as in front of a linear probe (arXiv 2111.06377, A.1; there
    without weights): an encoder whose frames have much in common shows its head what they differ
    in.

    Args:
        width: D.
        kind: batch, or none for frames as they are.

    Example::

        norm = FrameNorm(width=512, kind="batch")
        norm.init_weights()
        norm(torch.randn(2, 50, 512) + 7).mean()  # 0
    """

    outputs = ("tokens",)

    def __init__(self, *, width: int, kind: Literal["none", "batch"] = "batch") -> None:
        super().__init__()
        self.norm = BatchNorm(width) if kind == "batch" else None

    def init_weights(self) -> None:
        init_as_torch(self)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """x: [B, T, D]; frames: int64 [V]. Returns [B, T, D], zeros in padding unless none."""
        if self.norm is None:
            return x
        packed = take_frames(x, frames)  # [V, D]
        return put_frames(self.norm(packed), frames, *x.shape[:2])


@register("mean_frames")
class MeanFrames(nn.Module):
    """The mean over the real frames of each clip.

    Example::

        MeanFrames()(torch.zeros(2, 50, 512)).shape  # [2, 512]
    """

    outputs = ("pooled",)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """x: [B, T, D]; frames: int64 [V]. Returns [B, D]."""
        return mean_frames(x, frames)
