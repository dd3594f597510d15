"""BatchNorm over packed frames, whose statistics in training are those of the batch of all ranks.

Letters: V real frames of this rank, C channels, R ranks.
"""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from avssl.ops.gather import gather_batch
from avssl.ops.precision import at_least_float32
from avssl.ops.random import rank_and_world


class BatchNorm(_BatchNorm):
    """``nn.BatchNorm1d`` or ``2d`` for [V, C], [V, C, L] and [V, C, H, W], with the same names.

    With several ranks in training, mean and variance are taken over the frames of all of them, with
    gradient, so that they compute what one process would. ``nn.SyncBatchNorm`` does so on CUDA
    alone.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes will do."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [V, C, ...]. Returns the same shape."""
        if not self.training or rank_and_world()[1] == 1 or x.is_meta:
            return super().forward(x)
        exact = at_least_float32(x)
        mean, variance, count = _statistics(exact)
        self._remember(mean, variance, count)
        scale = torch.rsqrt(variance + self.eps)  # [C]
        if self.affine:
            scale = scale * self.weight
        shape = [1, -1] + [1] * (x.dim() - 2)
        normed = (exact - mean.view(shape)) * scale.view(shape)
        if self.affine:
            normed = normed + self.bias.view(shape)
        return normed.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics; the variance without bias, as PyTorch has it."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], biased variance [C] and number of values [] over the frames of all ranks."""
    axes = [0, *range(2, x.dim())]
    variance, mean = torch.var_mean(x, axes, correction=0)  # [C] each
    count = mean.new_full((1,), x.numel() // x.shape[1])
    ranks = gather_batch(torch.cat([mean, variance, count])[None])  # [R, 2 C + 1]
    means, variances, counts = ranks.split([mean.numel(), mean.numel(), 1], dim=1)
    shares = counts / counts.sum()  # [R, 1]
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean, variance, counts.sum()
