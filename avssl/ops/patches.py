"""Cutting pictures, spectrograms and clips into patches, and putting them together again.

Letters: B batch, C channels, N patches, P values of a patch.
"""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

Normalize = Literal["none", "patch", "channel"]


def patch_grid(
    size: Sequence[int], patch: Sequence[int], stride: Sequence[int] | None = None
) -> list[int]:
    """Patches along each axis.

    Args:
        size: lengths of the axes, for example frames x bins, or frames x height x width.
        patch: lengths of a patch along the same axes.
        stride: from one patch to the next where they overlap; what is left behind the last patch
            is not used then. None: patches stand side by side and fill the axis.

    Raises:
        ValueError: the number of axes differs, or an axis is not a whole number of patches.
    """
    if stride is not None:
        if not len(size) == len(patch) == len(stride) or min(*stride, *patch) < 1:
            raise ValueError(
                f"size {list(size)}, patch {list(patch)} and stride {list(stride)} need the same "
                "number of axes and lengths of 1 or more"
            )
        if any(s < p for s, p in zip(size, patch, strict=True)):
            raise ValueError(f"size {list(size)} is smaller than a patch of {list(patch)}")
        return [(s - p) // step + 1 for s, p, step in zip(size, patch, stride, strict=True)]
    if len(size) != len(patch):
        raise ValueError(
            f"size {list(size)} has {len(size)} axes but patch {list(patch)} {len(patch)}"
        )
    check_patch(patch)
    if any(s % p for s, p in zip(size, patch, strict=True)):
        raise ValueError(f"size {list(size)} is not a whole number of patches of {list(patch)}")
    return [s // p for s, p in zip(size, patch, strict=True)]


def check_patch(patch: Sequence[int]) -> None:
    """Raise ValueError unless all lengths of a patch are 1 or more."""
    if min(patch, default=0) < 1:
        raise ValueError(f"patch {list(patch)} must have lengths of 1 or more")


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Cut into patches in row-major order; the values of a patch run over its axes, channels last.

    That is the order of MAE: (row, column, channel) within each patch of an image.

    Args:
        x: [B, C, *size].
        patch: lengths of a patch along each axis of ``size``.

    Returns:
        [B, N, P] with P = product of ``patch`` times C.
    """
    axes = len(patch)
    grid = patch_grid(x.shape[2:], patch)
    pairs = [length for pair in zip(grid, patch, strict=True) for length in pair]
    x = x.reshape(*x.shape[:2], *pairs)  # [B, C, g0, p0, g1, p1, ...]
    order = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
    return x.permute(order).reshape(x.shape[0], math.prod(grid), -1)  # [B, N, P]


def unpatchify(patches: Tensor, size: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Undo ``patchify``.

    Args:
        patches: [B, N, P].
        size: lengths of the axes of the result.
        patch: lengths of a patch along the same axes.

    Returns:
        [B, C, *size].
    """
    axes = len(patch)
    x = patches.reshape(patches.shape[0], *patch_grid(size, patch), *patch, -1)
    pairs = [axis for i in range(axes) for axis in (1 + i, 1 + axes + i)]
    return x.permute(0, 1 + 2 * axes, *pairs).reshape(x.shape[0], -1, *size)


def normalize_patches(patches: Tensor, kind: Normalize, channels: int) -> Tensor:
    """Patches [B, N, P] as targets of reconstruction: as they are (none), or with mean 0 and
    variance 1 (patch, as MAE), channel by channel (channel, as VideoMAE)."""
    mean, deviation = patch_statistics(patches, kind, channels)
    return (patches - mean) / deviation


def restore_patches(prediction: Tensor, patches: Tensor, kind: Normalize, channels: int) -> Tensor:
    """Undo ``normalize_patches`` by the statistics of the true patches: [B, N, P] each."""
    mean, deviation = patch_statistics(patches, kind, channels)
    return prediction * deviation + mean


def patch_statistics(patches: Tensor, kind: Normalize, channels: int) -> tuple[Tensor, Tensor]:
    """What each patch is centred by and divided by: for ``patch`` its mean and sqrt(unbiased
    variance + 1e-6), for ``channel`` mean and unbiased deviation + 1e-6 of each channel in it.

    Args:
        patches: [B, N, P], channels last in a patch.

    Returns:
        two tensors that broadcast to [B, N, P].
    """
    if kind == "none":
        return patches.new_zeros(()), patches.new_ones(())
    if kind == "channel":
        parts = patches.unflatten(2, (-1, channels))  # [B, N, P / C, C]
        mean = parts.mean(2, keepdim=True)  # [B, N, 1, C]
        variance = (parts - mean).square().sum(2, keepdim=True) / (parts.shape[2] - 1)
        deviation = variance.sqrt() + 1e-6
        return mean.expand_as(parts).flatten(2), deviation.expand_as(parts).flatten(2)
    mean = patches.mean(-1, keepdim=True)  # [B, N, 1]
    # torch.var runs Welford's recurrence, which is several times slower on a CPU.
    variance = (patches - mean).square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
    return mean, (variance + 1e-6).sqrt()  # [B, N, 1]
