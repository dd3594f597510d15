"""Stems that give one vector for each frame of a clip: mouth crops and waveforms (RAVEn, arXiv
2212.06246, 3.1).

Both run on real frames alone, so that padding takes no time and enters no BatchNorm. In eval mode a
clip gets the same features whatever stands beside it. In training mode the statistics of BatchNorm
are those of all real frames of the batch: the one way in which clips of a batch touch.
Letters: B batch, T frames, V real frames, S side of a picture, C channels of the first layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.blocks.batch_norm import BatchNorm
from avssl.blocks.init import init_as_torch
from avssl.blocks.resnet import ResNet18
from avssl.ops.frames import clear_padding, follows, put_frames, take_frames
from avssl.registry import register

SAMPLES = 640  # of a frame: 16 kHz at 25 frames per second


@register("lip_stem")
class LipStem(nn.Module):
    """Conv3d 5 x 7 x 7, BatchNorm, swish, max pooling, then a ResNet-18 on each frame and its mean.

    The 3-D convolution is done as a 2-D one over five pictures, which is the same product and twice
    as fast on a CPU.

    Args:
        channels: C, a multiple of 8; 64 in the paper.

    Example::

        stem = LipStem(channels=64)
        stem.init_weights()
        stem(torch.zeros(2, 1, 50, 88, 88)).shape  # [2, 50, 512]
    """

    outputs = ("tokens",)

    def __init__(self, *, channels: int = 64) -> None:
        super().__init__()
        _must_be_of_eight("lip_stem", channels)
        self.conv = nn.Conv3d(1, channels, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.bn = BatchNorm(channels)
        self.trunk = ResNet18(nn.Conv2d, channels)

    def init_weights(self) -> None:
        init_as_torch(self)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """x: [B, 1, T, S, S]; frames: int64 [V]. Returns [B, T, 8 C], zeros in padding."""
        batch, _, time = x.shape[:3]
        around = F.pad(clear_padding(x[:, 0], frames), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1)
        # [B, T, S, S, 5]
        pictures = take_frames(around, frames).permute(0, 3, 1, 2)  # [V, 5, S, S], channels last
        out = F.conv2d(pictures, self.conv.weight[:, 0], stride=2, padding=3)  # [V, C, S/2, S/2]
        out = F.max_pool2d(F.silu(self.bn(out)), 3, 2, 1)  # [V, C, S/4, S/4]
        return put_frames(self.trunk(out), frames, batch, time)  # [B, T, 8 C]


@register("wave_stem")
class WaveStem(nn.Module):
    """Conv1d of 80 samples, BatchNorm, swish, then a 1-D ResNet-18 and the mean of each frame.

    Args:
        channels: C, a multiple of 8; 64 in the paper.

    Example::

        stem = WaveStem(channels=64)
        stem.init_weights()
        stem(torch.zeros(2, 50, 640)).shape  # [2, 50, 512]
    """

    outputs = ("tokens",)

    def __init__(self, *, channels: int = 64) -> None:
        super().__init__()
        _must_be_of_eight("wave_stem", channels)
        self.conv = nn.Conv1d(1, channels, 80, 4, 38, bias=False)
        self.bn = BatchNorm(channels)
        self.trunk = ResNet18(nn.Conv1d, channels)

    def init_weights(self) -> None:
        init_as_torch(self)

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """x: [B, T, 640]; frames: int64 [V]. Returns [B, T, 8 C], zeros in padding."""
        batch, time, samples = x.shape
        if samples != SAMPLES:
            raise ValueError(f"wave_stem takes frames of {SAMPLES} samples, not {samples}")
        edge = self.conv.padding[0]
        assert isinstance(edge, int)
        wave = F.pad(clear_padding(x, frames).flatten(1), (edge, edge))  # [B, 640 T + 76]
        around = wave.unfold(1, samples + 2 * edge, samples)  # [B, T, 716]
        packed = take_frames(around, frames).unsqueeze(1)  # [V, 1, 716]
        out = F.conv1d(packed, self.conv.weight, stride=self.conv.stride)  # [V, C, 160]
        out = out.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # [V, C, 1, 160]
        out = self.trunk(F.silu(self.bn(out)), follows(frames, packed, time))  # [V, 8 C]
        return put_frames(out, frames, batch, time)


def _must_be_of_eight(name: str, channels: int) -> None:
    """With fewer, oneDNN's convolutions write outside of their memory (torch 2.11, CPU, backward,
    channels last)."""
    if channels < 1 or channels % 8:
        raise ValueError(f"{name} needs channels in multiples of 8, not {channels}")
