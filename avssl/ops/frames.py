"""Clips of different lengths: from padded [B, T, ...] to the real frames [V, ...] and back.

``frames`` is int64 [V], the index of every real frame in the flattened [B * T], ascending; None
means that all frames are real.
Letters: B batch, T frames of the longest clip, V real frames.
"""

import torch
from torch import Tensor


def valid_frames(
    frames: Tensor | None, batch: int, time: int, *, device: torch.device | None = None
) -> Tensor:
    """Which places hold real frames.

    Args:
        frames: int64 [V], or None. batch, time: B and T.
        device: of the result where ``frames`` is None.

    Returns:
        bool [B, T].
    """
    if frames is None:
        return torch.ones(batch, time, dtype=torch.bool, device=device)
    found = torch.zeros(batch * time, dtype=torch.bool, device=frames.device)
    return found.index_fill(0, frames, True).view(batch, time)


def take_frames(x: Tensor, frames: Tensor | None) -> Tensor:
    """The real frames of ``x`` [B, T, ...], one behind the other: [V, ...]."""
    flat = x.flatten(0, 1)  # [B * T, ...]
    return flat if frames is None else flat.index_select(0, frames)


def put_frames(packed: Tensor, frames: Tensor | None, batch: int, time: int) -> Tensor:
    """Undo ``take_frames``: [B, T, ...], zeros where no real frame is."""
    if frames is None:
        return packed.unflatten(0, (batch, time))
    places = packed.new_zeros(batch * time, *packed.shape[1:])
    return places.index_copy(0, frames, packed).unflatten(0, (batch, time))


def clear_padding(x: Tensor, frames: Tensor | None) -> Tensor:
    """``x`` [B, T, ...] with zeros where no real frame is, whatever stands there."""
    if frames is None:
        return x
    return put_frames(take_frames(x, frames), frames, x.shape[0], x.shape[1])


def mean_frames(x: Tensor, frames: Tensor | None) -> Tensor:
    """The mean over the real frames of each clip: [B, T, D] -> [B, D]."""
    if frames is None:
        return x.mean(1)
    valid = valid_frames(frames, x.shape[0], x.shape[1])[:, :, None].to(x.dtype)  # [B, T, 1]
    return (x * valid).sum(1) / valid.sum(1).clamp(min=1)


def follows(frames: Tensor | None, packed: Tensor, time: int) -> Tensor:
    """Which packed frames come right behind the one before them in the same clip.

    Args:
        frames: int64 [V], or None. packed: [V, ...], read for its length and device. time: T.

    Returns:
        bool [V].
    """
    if frames is None:
        frames = torch.arange(packed.shape[0], device=packed.device)  # [V]
    before = torch.cat([frames[:1], frames[:-1]])  # [V]
    starts = frames % torch.full_like(frames, time) == 0  # ONNX divides by tensors alone
    return (frames == before + 1) & ~starts
