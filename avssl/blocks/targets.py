"""Targets of reconstruction: patch values, and normalised teacher features.

Letters: B batch, C channels, N patches, P values of a patch, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.errors import UserError
from avssl.ops.frames import mean_frames, put_frames, take_frames
from avssl.ops.gather import sum_over_ranks
from avssl.ops.patches import Normalize, normalize_patches, patchify
from avssl.ops.precision import at_least_float32, without_autocast
from avssl.registry import register


class _Patchify(nn.Module):
    """Cuts the input into patches, and normalises these."""

    outputs = ("patches",)

    def __init__(self, *, patch: list[int], normalize: Normalize) -> None:
        super().__init__()
        self.patch, self.normalize = list(patch), normalize

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, *size]. Returns [B, N, P], channels last within a patch."""
        return normalize_patches(patchify(x, self.patch), self.normalize, x.shape[1])


@register("patchify_2d")
class Patchify2d(_Patchify):
    """The patch values of an image or a spectrogram.

    Args:
        patch: rows and columns of a patch.
        normalize: none; patch subtracts each patch's mean and divides by sqrt(unbiased variance +
            1e-6), as MAE; channel does so for each channel of it, by its deviation + 1e-6, as
            VideoMAE.

    Example::

        Patchify2d(patch=[16, 16])(torch.randn(2, 1, 1024, 128)).shape  # [2, 512, 256]
    """

    def __init__(
        self, *, patch: list[int], normalize: Literal["none", "patch", "channel"] = "patch"
    ) -> None:
        if len(patch) != 2:
            raise ValueError(f"patchify_2d needs a patch of 2 lengths, not {patch}")
        super().__init__(patch=patch, normalize=normalize)


@register("patchify_3d")
class Patchify3d(_Patchify):
    """The tubelet values of a clip.

    Args:
        patch: frames, rows and columns of a tubelet.
        normalize: none; patch subtracts each tubelet's mean and divides by sqrt(unbiased variance +
            1e-6), as MAE; channel does so for each channel of it, by its deviation + 1e-6, as
            VideoMAE.

    Example::

        Patchify3d(patch=[2, 16, 16])(torch.randn(2, 3, 8, 224, 224)).shape  # [2, 784, 1536]
    """

    def __init__(
        self, *, patch: list[int], normalize: Literal["none", "patch", "channel"] = "patch"
    ) -> None:
        if len(patch) != 3:
            raise ValueError(f"patchify_3d needs a patch of 3 lengths, not {patch}")
        super().__init__(patch=patch, normalize=normalize)


@register("target_norm")
class TargetNorm(nn.Module):
    """Normalises teacher features before they become targets.

    Args:
        kind: "none" passes them; "layer" is LayerNorm without weight and bias, "instance" subtracts
            from each channel its mean over the tokens of a clip and divides by their deviation
            (eps 1e-5), as data2vec and BRAVEn do; "whiten" subtracts the same mean, and then makes
            the channels uncorrelated and of like variance over the batch of all ranks (ZCA, as
            W-MSE, arXiv 2007.06346, whitens embeddings), so that no direction counts for less
            because few others go with it.
        floor: of whitening alone; share of the mean variance of all directions that is added to
            each, so that those of noise are not blown up.

    Example::

        TargetNorm(kind="layer")(torch.randn(2, 512, 768)).std(-1)  # ones
    """

    outputs = ("target",)

    def __init__(
        self, *, kind: Literal["none", "layer", "instance", "whiten"] = "none", floor: float = 0.02
    ) -> None:
        super().__init__()
        if not floor > 0:
            raise UserError(f"floor={floor} must be above 0")
        self.kind, self.floor = kind, floor
        self.mixes_clips = kind == "whiten"  # so that the values in front of it are cached

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """x: [B, N, D], zeros in padding; frames: int64 [V], of `instance` and `whiten` alone.
        Returns the same shape, and zeros in padding."""
        if self.kind == "none":
            return x
        if self.kind == "layer":
            return F.layer_norm(x, x.shape[-1:], eps=1e-6)
        centred = x - mean_frames(x, frames)[:, None]  # [B, N, D]
        if self.kind == "instance":
            variance = mean_frames(centred.square(), frames)[:, None]  # [B, 1, D]
            packed = take_frames(centred / (variance + 1e-5).sqrt(), frames)  # [V, D]
        else:
            packed = _whitened(take_frames(centred, frames), self.floor)
        return put_frames(packed, frames, *x.shape[:2])


def _whitened(x: Tensor, floor: float) -> Tensor:
    """x: [V, D], of mean 0. Returns the same with uncorrelated channels over all ranks; a direction
    of variance v keeps v / (v + floor * mean of all + 1e-6)."""
    with without_autocast(x):
        exact = at_least_float32(x)
        frames = sum_over_ranks(exact.new_tensor(len(exact)))
        covariance = sum_over_ranks(exact.T @ exact) / frames  # [D, D]
        variances, directions = torch.linalg.eigh(covariance)  # [D], [D, D]
        scale = (variances.clamp(min=0) + floor * variances.mean() + 1e-6).rsqrt()
        return (exact @ (directions * scale @ directions.T)).to(x.dtype)
