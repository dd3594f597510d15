"""The mean of the last checkpoints of a stage, as recipes of speech recognition take it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from avssl.errors import UserError
from avssl.train.checkpoint import MODEL, check, steps_saved


def last_checkpoints(folder: Path, count: int) -> tuple[list[Path], list[str]]:
    """The newest intact checkpoints of a stage, oldest first, and a sentence for each damaged one
    that was passed over.

    Raises:
        UserError: there is none.
    """
    found: list[Path] = []
    damaged: list[str] = []
    for _, path in reversed(steps_saved(folder)):
        if len(found) == count:
            break
        try:
            check(path)
            found.append(path)
        except UserError as error:
            damaged.append(str(error))
    if not found:
        raise UserError(" ".join([f"{folder} holds no intact checkpoint.", *damaged]))
    return found[::-1], damaged


def average(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of each tensor over checkpoints, summed in double precision; whole numbers, such as
    counts of batches, are those of the last one."""
    files = [safe_open(path / MODEL, framework="pt") for path in checkpoints]
    found: dict[str, Tensor] = {}
    for name in files[-1].keys():
        last = files[-1].get_tensor(name)
        if last.is_floating_point():
            total = torch.zeros(last.shape, dtype=torch.float64)
            for file in files:
                total += file.get_tensor(name)
            last = (total / len(files)).to(last.dtype)
        found[name] = last
    return found


def fingerprint(weights: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that differ where weights do."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
