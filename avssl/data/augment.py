"""Random crops and colours of pictures, drawn alike for all pictures of a clip.

Letters: T pictures, H W height and width, S side of the result.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment
from torchvision.transforms.v2 import functional as F

from avssl.data.config import FramesConfig

Box = tuple[int, int, int, int]  # top, left, height, width

_TRIES = 10  # draws of an Inception crop before the largest one of the picture's middle is taken
_BLUR = (0.1, 2.0)  # sigma in pixels of a picture of 224, as MoCo v3
_BLUR_SIDE = 224
_SOLARISE_FROM = 128
_LEVELS = 100  # of RandAugment's magnitude
# 13 places of a multi-scale crop, in quarters of what is left over: corners, edges, in between
_PLACES = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0),
           (1, 1), (3, 1), (1, 3), (3, 3))  # fmt: skip


def draw_box(size: tuple[int, int], recipe: FramesConfig, random: np.random.Generator) -> Box:
    """Where to crop pictures of height and width `size`."""
    return (_scale_box if recipe.area is None else _area_box)(size, recipe, random)


def _area_box(size: tuple[int, int], recipe: FramesConfig, random: np.random.Generator) -> Box:
    """Inception's crop, as torchvision's RandomResizedCrop draws it."""
    assert recipe.area is not None
    height, width = size
    narrow, wide = (math.log(ratio) for ratio in recipe.aspect)
    for _ in range(_TRIES):
        area = height * width * random.uniform(recipe.area[0], recipe.area[1])
        ratio = math.exp(random.uniform(narrow, wide))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
    shape = min(max(width / height, recipe.aspect[0]), recipe.aspect[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - h) // 2, (width - w) // 2, h, w


def _scale_box(size: tuple[int, int], recipe: FramesConfig, random: np.random.Generator) -> Box:
    """The multi-scale crop of TSN (arXiv 1608.00859), whose sides are at most a step apart."""
    assert recipe.scales is not None
    sides = [max(1, int(min(size) * scale)) for scale in recipe.scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[int(random.integers(len(pairs)))]
    down, right = _PLACES[int(random.integers(len(_PLACES)))]
    return (size[0] - h) * down // 4, (size[1] - w) * right // 4, h, w


def resized(pictures: np.ndarray, side: int) -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [T, S, S, 3], bilinear with antialiasing."""
    if pictures.shape[1:3] == (side, side):
        return pictures
    return _numpy(F.resize(_torch(pictures), [side, side], antialias=True))


def coloured(pictures: np.ndarray, recipe: FramesConfig, random: np.random.Generator) -> np.ndarray:
    """Colour jitter, grey, blur and solarisation, each with its probability: uint8 [T, S, S, 3]."""
    x = _torch(pictures)
    if recipe.jitter is not None and random.random() < recipe.jitter_share:
        x = _jittered(x, recipe.jitter, random)
    if random.random() < recipe.grey:
        x = F.rgb_to_grayscale(x, num_output_channels=3)
    if random.random() < recipe.blur:
        sigma = random.uniform(*_BLUR) * x.shape[-1] / _BLUR_SIDE
        x = F.gaussian_blur(x, kernel_size=[2 * math.ceil(3 * sigma) + 1] * 2, sigma=[sigma] * 2)
    if random.random() < recipe.solarise:
        x = F.solarize(x, threshold=_SOLARISE_FROM)
    return _numpy(x)


def randaugmented(
    pictures: np.ndarray, recipe: FramesConfig, random: np.random.Generator
) -> np.ndarray:
    """RandAugment of torchvision: uint8 [T, S, S, 3]."""
    settings = recipe.randaugment
    assert settings is not None
    level = min(max(random.normal(settings.magnitude, settings.std), 0.0), 10.0)
    transform = RandAugment(
        num_ops=settings.operations,
        magnitude=round(level * _LEVELS / 10),
        num_magnitude_bins=_LEVELS + 1,
        interpolation=InterpolationMode.BILINEAR,
        fill=[round(255 * mean) for mean in recipe.mean],
    )
    with torch.random.fork_rng(devices=[]):  # it draws from the default generator
        torch.default_generator.manual_seed(int(random.integers(2**63)))
        return _numpy(transform(_torch(pictures)))


def _jittered(x: Tensor, most: list[float], random: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue in random order."""
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    for which in random.permutation(4):
        if which == 3:
            x = F.adjust_hue(x, float(random.uniform(-most[3], most[3])))
        else:
            factor = random.uniform(max(0.0, 1 - most[which]), 1 + most[which])
            x = adjust[which](x, float(factor))
    return x


def _torch(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def _numpy(x: Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()
