"""Training batches of some steps, and whether two lists of them are the same."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_loader


def batches(dataset: ClipDataset, start: int, stop: int, **changes: Any) -> list[dict[str, Any]]:
    """The training batches of some steps, with changes to the configuration."""
    options = {"rank": changes.pop("rank", 0), "world": changes.pop("world", 1)}
    config = dataclasses.replace(dataset.config, **changes)
    return list(make_loader(dataset, config, seed=3, start_step=start, steps=stop, **options))


def assert_equal(left: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> None:
    """Batches that hold the same, to the last bit."""
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            same = (
                torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
            )
            assert same, name
