"""Tokens to features: their mean, and windows of a clip put together again.

Letters: B batch (windows), N tokens, T frames, D width, L layers.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Pool = Literal["mean", "cls", "none"]
POOLS = ("mean", "cls", "none")


def row_of(features: Any, row: int, *, layers: bool) -> Any:
    """One window's features, [D] or [N, D]; with `layers` there is an axis [L] before the batch."""
    if isinstance(features, dict):
        return {name: row_of(x, row, layers=layers) for name, x in features.items()}
    return features[:, row] if layers else features[row]


def cut(features: Any, frames: int) -> Any:
    """[..., T, D] without the tokens behind the end of the clip."""
    if isinstance(features, dict):
        return {name: cut(x, frames) for name, x in features.items()}
    return features[..., :frames, :]


def join(parts: list[Any], pool: Pool) -> Any:
    """One clip's features from those of its windows."""
    if isinstance(parts[0], dict):
        return {name: join([part[name] for part in parts], pool) for name in parts[0]}
    if pool == "none":
        return torch.cat(parts, dim=-2)  # [N, D]
    return torch.stack(parts).mean(0)  # [D]


def tensors_of(features: Any) -> list[Tensor]:
    """The tensors of a clip's features."""
    return list(features.values()) if isinstance(features, dict) else [features]
