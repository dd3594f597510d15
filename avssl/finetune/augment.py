"""Augmentation of prepared batches in fine-tuning: erasing, cutmix, mixup, masked bands, noise,
rolling.

Letters: B batch, C classes, T frames (rows of 10 ms) or pictures, F mel bins, H W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix as CutMixTransform
from torchvision.transforms.v2 import RandomErasing
from torchvision.tv_tensors import Video

from avssl.data.config import FbankConfig, FramesConfig
from avssl.finetune.config import Augmentation, CutMix, Mixup

Recipes = Mapping[str, FbankConfig | FramesConfig]


def augment(
    inputs: Mapping[str, Tensor], target: Tensor, *, recipes: Recipes, config: Augmentation
) -> tuple[dict[str, Tensor], Tensor]:
    """Augment the inputs of a batch and mix its targets; draws from the default generator.

    Erasing and cutmix of pictures first, as VideoMAE's; then in the order of CAV-MAE's loader:
    mixup (there of waveforms), masked bands, noise, rolling.

    Args:
        inputs: normalised spectrograms [B, 1, T, F] and pictures [B, 3, T, H, W].
        target: [B, C].
        recipes: how each input was made.

    Returns:
        The inputs and the target, new tensors.
    """
    result = dict(inputs)
    if config.erase:
        for name, recipe in recipes.items():
            if isinstance(recipe, FramesConfig):
                result[name] = erase(result[name], config.erase)
    if config.cutmix is not None and torch.rand(()) < config.cutmix.probability:
        result, target = cut_and_paste(result, target, config=config.cutmix)
    elif config.mixup is not None:
        result, target = mix(result, target, recipes=recipes, config=config.mixup)
    for name, recipe in recipes.items():
        if isinstance(recipe, FbankConfig):
            x = result[name]
            fill = 0.0 if config.fill == "mean" else -recipe.mean / (2 * recipe.std)
            x = mask_band(x, dim=3, longest=config.frequency_mask, fill=fill)  # [B, 1, T, F]
            x = mask_band(x, dim=2, longest=config.time_mask, fill=fill)  # [B, 1, T, F]
            if config.noise:
                level = config.noise * torch.rand(len(x), 1, 1, 1, device=x.device)
                x = x + level * torch.rand_like(x)  # [B, 1, T, F]
            result[name] = roll(x) if config.roll else x
    return result, target


def erase(x: Tensor, probability: float) -> Tensor:
    """Fill a rectangle of each clip with normal noise, with a probability. x: [B, 3, T, H, W]."""
    transform = RandomErasing(p=probability, value="random")
    clips = [transform(Video(clip.transpose(0, 1))) for clip in x]  # [T, 3, H, W]
    return torch.stack([clip.as_subclass(Tensor).transpose(0, 1) for clip in clips])


def cut_and_paste(
    inputs: Mapping[str, Tensor], target: Tensor, *, config: CutMix
) -> tuple[dict[str, Tensor], Tensor]:
    """Paste a rectangle of the clip before into each clip of a batch, and share the targets by its
    area. inputs: pictures [B, 3, T, H, W] of one size; target: [B, C]."""
    videos, target = CutMixTransform(alpha=config.alpha)(
        {name: Video(x) for name, x in inputs.items()}, target
    )
    return {name: x.as_subclass(Tensor) for name, x in videos.items()}, target


def mix(
    inputs: Mapping[str, Tensor], target: Tensor, *, recipes: Recipes, config: Mixup
) -> tuple[dict[str, Tensor], Tensor]:
    """Mix clips with others of the batch, each with its own share (arXiv 1710.09412).

    Pictures and targets are averaged with the shares s and 1 - s. AudioMAE and CAV-MAE average
    waveforms; here spectrograms come, and the mix of two waveforms that have nothing to do with
    each other has the power s^2 a + (1 - s)^2 b in the mean: so it is done on the power. The clips
    to mix come from the same batch, in those projects from the whole set.
    """
    count, device = len(target), target.device
    beta = torch.distributions.Beta(config.alpha, config.alpha)
    share = beta.sample((count,)).to(device)  # [B]
    mixed = torch.rand(count, device=device) < config.probability  # [B]
    partner = torch.randperm(count, device=device)  # [B]
    mixed &= partner != torch.arange(count, device=device)
    share = torch.where(mixed, share, 1.0)
    result = {}
    for name, recipe in recipes.items():
        x = inputs[name]
        own = share.view(-1, *[1] * (x.ndim - 1))  # [B, 1, ...]
        if isinstance(recipe, FbankConfig):
            log = x * (2 * recipe.std) + recipe.mean  # [B, 1, T, F], natural logarithm of power
            both = torch.logaddexp(log + 2 * own.log(), log[partner] + 2 * (1 - own).log())
            new = (both - recipe.mean) / (2 * recipe.std)
        else:
            new = own * x + (1 - own) * x[partner]
        result[name] = torch.where(own < 1, new, x)
    own = share[:, None]  # [B, 1]
    return result, own * target + (1 - own) * target[partner]


def mask_band(x: Tensor, *, dim: int, longest: int, fill: float) -> Tensor:
    """Fill one band along `dim` in each clip (SpecAugment, arXiv 1904.08779): its length is drawn
    from 0 up to below `longest`, then its place."""
    if longest == 0:
        return x
    size = x.shape[dim]
    shape = [len(x)] + [1] * (x.ndim - 1)
    length = torch.rand(shape, device=x.device) * min(longest, size)  # [B, 1, ...]
    start = torch.rand(shape, device=x.device) * (size - length)
    place = torch.arange(size, device=x.device).view(
        [size if axis == dim else 1 for axis in range(x.ndim)]
    )
    inside = (place >= start.floor()) & (place < start.floor() + length.floor())
    return x.masked_fill(inside, fill)


def roll(x: Tensor) -> Tensor:
    """Turn each spectrogram [B, 1, T, F] round in time by its own random number of rows."""
    rows = x.shape[2]
    by = torch.randint(rows, (len(x), 1), device=x.device)  # [B, 1]
    index = (torch.arange(rows, device=x.device)[None] - by) % rows  # [B, T]
    return x.gather(2, index[:, None, :, None].expand_as(x))
