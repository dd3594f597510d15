"""Stems: from pictures, spectrograms and clips to tokens.

Letters: B batch, C channels, T frames, F mel bins, H W height width, N patches, K kept patches,
D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.blocks.init import init_layers
from avssl.ops.patches import check_patch, patch_grid
from avssl.registry import register


def embed_patches(x: Tensor, proj: nn.Conv2d | nn.Conv3d, keep: Tensor | None) -> Tensor:
    """What a convolution gives, at the kept patches alone.

    The convolution holds the weights in the layout of every ViT, but is done as one product, so
    that hidden patches cost nothing.

    Args:
        x: [B, C, *size]; with stride = kernel whole patches, else ValueError.
        proj: the convolution.
        keep: patches to embed, int64 [B, K]; all when None.

    Returns:
        [B, K, D], or [B, N, D].
    """
    patch = proj.kernel_size
    if proj.stride != patch:
        return _embed_overlapping(x, proj, keep)
    grid = patch_grid(x.shape[2:], patch)
    pairs = [length for pair in zip(grid, patch, strict=True) for length in pair]
    axes = len(patch)
    x = x.reshape(*x.shape[:2], *pairs)  # [B, C, g0, p0, g1, p1, ...]
    x = x.permute(0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))
    # [B, g0, g1, ..., C, p0, p1, ...]
    if keep is None:
        x = x.reshape(x.shape[0], math.prod(grid), -1)  # [B, N, C * patch]
    else:
        rows = torch.arange(x.shape[0], device=x.device)[:, None]  # [B, 1]
        x = x[(rows, *torch.unravel_index(keep, grid))].flatten(2)  # [B, K, C * patch]
    return F.linear(x, proj.weight.flatten(1), proj.bias)


def _embed_overlapping(x: Tensor, proj: nn.Conv2d | nn.Conv3d, keep: Tensor | None) -> Tensor:
    """The same where patches share pixels: [B, K, D], or [B, N, D]."""
    if keep is None:
        return proj(x).flatten(2).transpose(1, 2)  # [B, N, D]
    grid = patch_grid(x.shape[2:], proj.kernel_size, proj.stride)
    for axis, (length, step) in enumerate(zip(proj.kernel_size, proj.stride, strict=True)):
        x = x.unfold(2 + axis, length, step)  # [B, C, g0, g1, ..., p0, p1, ...], a view
    x = x.movedim(1, 1 + len(grid))  # [B, g0, g1, ..., C, p0, p1, ...]
    rows = torch.arange(x.shape[0], device=x.device)[:, None]  # [B, 1]
    x = x[(rows, *torch.unravel_index(keep, grid))].flatten(2)  # [B, K, C * patch]
    return F.linear(x, proj.weight.flatten(1), proj.bias)


@register("patch_embed_2d")
class PatchEmbed2d(nn.Module):
    """One linear projection per patch of an image or a spectrogram (ViT, arXiv 2010.11929, 3.1).

    Args:
        channels: channels of the input.
        width: D.
        patch: rows and columns of a patch, for example [16, 16].
        stride: from one patch to the next, for example [10, 10] where they overlap (AST, arXiv
            2104.01778, 2.1); None: side by side.

    Example::

        stem = PatchEmbed2d(channels=1, width=768, patch=[16, 16])
        stem.init_weights()
        tokens = stem(torch.randn(2, 1, 1024, 128))  # [2, 512, 768], index = row * 8 + column
    """

    outputs = ("tokens",)

    def __init__(
        self, *, channels: int, width: int, patch: list[int], stride: list[int] | None = None
    ) -> None:
        super().__init__()
        step = patch if stride is None else stride
        if len(patch) != 2 or len(step) != 2:
            raise ValueError(
                f"patch_embed_2d needs a patch and a stride of 2 lengths, not {patch} and {stride}"
            )
        check_patch(patch)
        self.proj = nn.Conv2d(channels, width, (patch[0], patch[1]), (step[0], step[1]))

    def init_weights(self) -> None:
        init_layers(self)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W], whole patches unless there is a stride; keep: [B, K]. Returns [B, K, D],
        [B, N, D] without."""
        return embed_patches(x, self.proj, keep)


@register("swap_axes")
class SwapAxes(nn.Module):
    """Turns a spectrogram of frames x bins into bins x frames, as AST and CAV-MAE read it.

    Example::

        SwapAxes()(torch.zeros(2, 1, 1024, 128)).shape  # [2, 1, 128, 1024]
    """

    outputs = ("out",)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, T, F]. Returns [B, C, F, T]."""
        return x.transpose(2, 3)


@register("patch_embed_3d")
class PatchEmbed3d(nn.Module):
    """One linear projection per tubelet of a clip (ViViT, arXiv 2103.15691, 3.2).

    Args:
        channels: channels of the input.
        width: D.
        patch: frames, rows and columns of a tubelet, for example [2, 16, 16].
        trained: False leaves the projection as it is drawn, as MoCo v3 does (arXiv 2104.02057, 4).

    Example::

        stem = PatchEmbed3d(channels=3, width=768, patch=[2, 16, 16])
        stem.init_weights()
        tokens = stem(torch.randn(2, 3, 8, 224, 224))  # [2, 784, 768], index = t * 196 + h * 14 + w
    """

    outputs = ("tokens",)

    def __init__(
        self, *, channels: int, width: int, patch: list[int], trained: bool = True
    ) -> None:
        super().__init__()
        if len(patch) != 3:
            raise ValueError(f"patch_embed_3d needs a patch of 3 lengths, not {patch}")
        check_patch(patch)
        frames, rows, columns = patch
        self.proj = nn.Conv3d(channels, width, (frames, rows, columns), (frames, rows, columns))
        self.proj.requires_grad_(trained)

    def init_weights(self) -> None:
        init_layers(self)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x: [B, C, T, H, W], whole patches; keep: [B, K]. Returns [B, K, D], [B, N, D] without."""
        return embed_patches(x, self.proj, keep)
