"""The ResNet-18 trunk (arXiv 1512.03385) over packed frames, for pictures and for waveforms.

A frame of a waveform is a stretch of it, and convolutions run across frames: each frame is joined
by the edge of its neighbours in the same clip, and by zeros at the ends of a clip. That is what a
convolution over one clip alone, padded with zeros, computes, at every layer. Such a frame is held
as a picture of one row: 2-D layers keep channels last, which makes them faster on a CPU.
Letters: V real frames, C channels, L samples of a frame, H W height width; H is 1 for waveforms.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.blocks.batch_norm import BatchNorm

Conv = nn.Conv1d | nn.Conv2d


class Shortcut(nn.Module):
    """A 1 x 1 convolution and BatchNorm, where a block changes the shape."""

    def __init__(self, kind: type[Conv], inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv = kind(inner, outer, 1, stride, bias=False)
        self.bn = BatchNorm(outer)

    def forward(self, x: Tensor) -> Tensor:
        # flattened and back: its gradient is then laid out as it is, without which DDP warns
        weight = self.conv.weight.flatten(1)[:, :, None, None]  # [out, in, 1, 1]
        # cut before and not by the convolution: oneDNN's gradient of a 1 x 1 weight with a stride
        # and 8 channels writes outside of its memory (torch 2.11, CPUs with AVX-512)
        down, right = _stride(self.conv)
        return self.bn(F.conv2d(x[:, :, ::down, ::right], weight))


class BasicBlock(nn.Module):
    """swish(bn2(conv2(swish(bn1(conv1(x))))) + shortcut(x))."""

    def __init__(self, kind: type[Conv], inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = kind(inner, outer, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm(outer)
        self.conv2 = kind(outer, outer, 3, 1, padding=1, bias=False)
        self.bn2 = BatchNorm(outer)
        same = stride == 1 and inner == outer
        self.shortcut = nn.Identity() if same else Shortcut(kind, inner, outer, stride)

    def forward(self, x: Tensor, joined: Tensor | None) -> Tensor:
        """x: [V, C, H, W], or [V, C, 1, L] with joined: bool [V], of ``follows``."""
        out = F.silu(self.bn1(convolve(self.conv1, x, joined)))
        out = self.bn2(convolve(self.conv2, out, joined))
        return F.silu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """Four layers of two blocks with C, 2 C, 4 C and 8 C channels, and the mean over places; all
    layers but the first halve H and W, or L."""

    def __init__(self, kind: type[Conv], channels: int) -> None:
        super().__init__()
        self.layer1 = _layer(kind, channels, channels, 1)
        self.layer2 = _layer(kind, channels, 2 * channels, 2)
        self.layer3 = _layer(kind, 2 * channels, 4 * channels, 2)
        self.layer4 = _layer(kind, 4 * channels, 8 * channels, 2)

    def blocks_in_order(self) -> Iterator[nn.Module]:
        """Its eight blocks."""
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            yield from layer

    def forward(self, x: Tensor, joined: Tensor | None = None) -> Tensor:
        """x: [V, C, H, W], or [V, C, 1, L] with joined: bool [V]. Returns [V, 8 C]."""
        for block in self.blocks_in_order():
            x = block(x, joined)  # [V, 8 C, h, w] in the end
        # with the channels at the end, so that the gradient comes back in this order, too
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)  # [V, 8 C]


def _layer(kind: type[Conv], inner: int, outer: int, stride: int) -> nn.ModuleList:
    return nn.ModuleList(
        [BasicBlock(kind, inner, outer, stride), BasicBlock(kind, outer, outer, 1)]
    )


def convolve(conv: Conv, x: Tensor, joined: Tensor | None) -> Tensor:
    """A convolution of width 3 within pictures [V, C, H, W], or along the time of the clips that
    frames [V, C, 1, L] are of."""
    if joined is None:
        return conv(x)
    zero = x.new_zeros(())
    join = joined[:, None, None, None]  # [V, 1, 1, 1]
    left = torch.where(join, x[..., -1:].roll(1, 0), zero)  # [V, C, 1, 1]
    right = torch.where(join.roll(-1, 0), x[..., :1].roll(-1, 0), zero)  # [V, C, 1, 1]
    around = torch.cat([left, x, right], dim=3)  # [V, C, 1, L + 2]
    return F.conv2d(around, conv.weight.unsqueeze(2), stride=_stride(conv))


def _stride(conv: Conv) -> tuple[int, int]:
    return (1, conv.stride[0]) if isinstance(conv, nn.Conv1d) else (conv.stride[0], conv.stride[1])
