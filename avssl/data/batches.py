"""From what was read of clips to the tensors that a graph takes.

Letters: B batch, N samples, T pictures, frames or filterbank rows, F mel bins, H W height and
width, K samples of a frame, U units of a transcript, V real frames of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avssl.data.buckets import Padding
from avssl.data.config import FbankConfig, FramesConfig, Recipe
from avssl.data.features import fbank, fit_frames, normalize
from avssl.data.length_config import FRAMES, REAL, LipsConfig, TextConfig, WaveConfig
from avssl.ops.frames import valid_frames

Recipes = Mapping[str, Recipe]  # input -> how it is made
ZERO_FRAMES = 25  # 1 s as recipes have it
NO_UNIT = -1  # behind the end of a transcript


def stack_inputs(
    inputs: Sequence[Mapping[str, np.ndarray]], recipes: Recipes, *, padding: Padding = (0, 0)
) -> dict[str, Tensor]:
    """Batch the raw inputs of clips: filterbanks are done, pictures are still uint8.

    Args:
        inputs: of each clip, waveforms float32 [N], of any length, and pictures uint8
            [3, T, H, W]; or clips of their own length, waves [T, K], lips uint8 [1, T, H, W] and
            text int64 [U].
        padding: frames and units that clips of their own length have at least.

    Returns:
        float32 [B, 1, T, F] and uint8 [B, 3, T, H, W]; or float32 [B, T, K], uint8
        [B, 1, T, H, W], int64 [B, U], and `frames` int64 [V].
    """
    if any(isinstance(recipe, LipsConfig | WaveConfig) for recipe in recipes.values()):
        return _padded(inputs, recipes, padding)
    batch: dict[str, Tensor] = {}
    for name, recipe in recipes.items():
        arrays = [raw[name] for raw in inputs]
        if isinstance(recipe, FbankConfig):
            # sounds of one length at once
            groups = [arrays] if len(set(map(len, arrays))) == 1 else [[x] for x in arrays]
            features = torch.cat([_spectrograms(np.stack(group), recipe) for group in groups])
            features = normalize(features, mean=recipe.mean, std=recipe.std)
            batch[name] = features.unsqueeze(1)  # [B, 1, T, F]
        else:
            batch[name] = torch.from_numpy(np.stack(arrays))
    return batch


def _padded(
    inputs: Sequence[Mapping[str, np.ndarray]], recipes: Recipes, padding: Padding
) -> dict[str, Tensor]:
    """Clips of their own length, followed by zeros, transcripts by -1; and `frames`."""
    batch: dict[str, Tensor] = {}
    for name, recipe in recipes.items():
        arrays = [raw[name] for raw in inputs]
        axis = 1 if isinstance(recipe, LipsConfig) else 0
        counts = [array.shape[axis] for array in arrays]
        text = isinstance(recipe, TextConfig)
        shape = list(arrays[0].shape)
        shape[axis] = total = max(*counts, padding[1 if text else 0])
        stacked = np.full((len(arrays), *shape), NO_UNIT if text else 0, arrays[0].dtype)
        for row, array in zip(stacked, arrays, strict=True):
            (row[:, : array.shape[1]] if axis else row[: len(array)])[...] = array
        batch[name] = torch.from_numpy(stacked)
        if not text:
            rows = [row * total + np.arange(count) for row, count in enumerate(counts)]
            batch[REAL] = torch.from_numpy(np.concatenate(rows))  # [V]
    return batch


def _spectrograms(sounds: np.ndarray, recipe: FbankConfig) -> Tensor:
    """[B, N] -> [B, T, F], zeros behind a sound that is too short."""
    shortest = round(recipe.sample_rate * 0.025)  # one frame of the filterbank
    if sounds.shape[1] < shortest:
        sounds = np.pad(sounds, ((0, 0), (0, shortest - sounds.shape[1])))
    with _one_thread():
        features = fbank(torch.from_numpy(sounds), sample_rate=recipe.sample_rate, bins=recipe.bins)
    return fit_frames(features, recipe.frames)


def finish_inputs(
    batch: Mapping[str, Any], recipes: Recipes, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Move a batch to the device and normalise its pictures there, to float32 [B, 3, T, H, W], and
    its lips, to float32 [B, 1, T, H, W] with zeros behind the end of each clip."""
    done = dict(batch)
    for name, value in batch.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if isinstance(value, Tensor):
            done[name] = value.to(device, non_blocking=True)
    for name, recipe in recipes.items():
        if isinstance(recipe, FramesConfig) and name in done:
            shape = (1, 3, 1, 1, 1)
            scale = 1 / (255 * torch.tensor(recipe.std, device=device).view(shape))
            shift = torch.tensor(recipe.mean, device=device).view(shape) * 255 * scale
            done[name] = done[name].float().mul_(scale).sub_(shift)  # [B, 3, T, H, W]
        if isinstance(recipe, LipsConfig) and name in done:
            scaled = done[name].float().mul_(1 / (255 * recipe.std)).sub_(recipe.mean / recipe.std)
            done[name] = scaled.masked_fill_(~_real(scaled, done[REAL]), 0.0)  # [B, 1, T, H, W]
    return done


def _real(lips: Tensor, frames: Tensor) -> Tensor:
    """Which frames of [B, 1, T, H, W] are their clip's own: bool [B, 1, T, 1, 1]."""
    batch, _, time = lips.shape[:3]
    return valid_frames(frames, batch, time)[:, None, :, None, None]


def frame_counts(batch: Mapping[str, Any], recipes: Recipes) -> list[int] | None:
    """Real frames of each clip of a batch of clips of their own length; None for windows."""
    for name, recipe in recipes.items():
        if isinstance(recipe, LipsConfig | WaveConfig) and REAL in batch:
            time = batch[name].shape[2 if isinstance(recipe, LipsConfig) else 1]
            clips = batch[REAL].div(time, rounding_mode="floor")  # [V]
            return clips.bincount(minlength=len(batch[name])).tolist()
    return None


def zero_inputs(recipes: Recipes, *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """A batch of one clip whose inputs are zero; one of its own length has `ZERO_FRAMES`."""
    batch: dict[str, Tensor] = {}
    for name, recipe in recipes.items():
        shape = [ZERO_FRAMES if size == FRAMES else int(size) for size in recipe.shape]
        batch[name] = torch.zeros(1, *shape, device=device)
        if FRAMES in recipe.shape:
            batch[REAL] = torch.arange(ZERO_FRAMES, device=device)
    return batch


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small operations in one thread, where no worker process has set that already: starting
    threads for each costs more than it gains, and very much more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
