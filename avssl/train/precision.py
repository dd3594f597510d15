"""In which precision a stage trains, and its frozen teachers run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from avssl.train.config import TrainConfig


def in_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether training runs under bf16 autocast."""
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def teacher_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The precision of frozen teachers, None where it is that of training."""
    bf16 = in_bf16(config, device)
    lower = config.teacher_precision == "bf16"
    if config.teacher_precision == "auto":
        lower = bf16 or (
            device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        )
    if lower == bf16:
        return None
    return torch.bfloat16 if lower else torch.float32
