"""From what was read of clips to the tensors that a graph takes.

Letters: B batch, N samples, T pictures or filterbank rows, F mel bins, H W height and width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avssl.data.config import FbankConfig, FramesConfig
from avssl.data.features import fbank, fit_frames, normalize

Recipes = Mapping[str, FbankConfig | FramesConfig]  # input -> how it is made


def stack_inputs(inputs: Sequence[Mapping[str, np.ndarray]], recipes: Recipes) -> dict[str, Tensor]:
    """Batch the raw inputs of clips: filterbanks are done, pictures are still uint8.

    Args:
        inputs: of each clip, waveforms float32 [N], of any length, and pictures uint8
            [3, T, H, W].

    Returns:
        float32 [B, 1, T, F] and uint8 [B, 3, T, H, W].
    """
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
    """Move a batch to the device and normalise its pictures there, to float32 [B, 3, T, H, W]."""
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
    return done


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
