"""Patches hidden in fine-tuning: counts and structure as the recipe has them."""

import pytest
import torch

from avssl.finetune.masks import random_keep, structured_keep

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("grid", "time", "frequency", "rows", "columns"),
    [
        ([64, 8], 0.2, 0.2, 51, 6),  # AudioMAE on AudioSet: floor(51.2), floor(6.4)
        ([31, 4], 0.2, 0.2, 24, 3),
        ([10, 5], 0.8, 0.0, 2, 5),  # not 1 by binary rounding
        ([3, 2], 0.9, 0.9, 1, 1),  # something stays
    ],
)
def test_structured(
    grid: list[int], time: float, frequency: float, rows: int, columns: int
) -> None:
    torch.manual_seed(0)
    keep = structured_keep(50, grid, shares=(time, frequency), device=CPU)
    assert keep.shape == (50, rows * columns) and keep.dtype == torch.int64
    for own in keep:
        assert len(set((own // grid[1]).tolist())) == rows  # whole rows and columns: a grid
        assert len(set((own % grid[1]).tolist())) == columns
        assert torch.equal(own, own.sort().values) and len(own.unique()) == len(own)
    assert len({tuple(row) for row in keep.tolist()}) > 1


@pytest.mark.parametrize(("share", "count"), [(0.0, 784), (0.2, 627), (0.5, 392), (0.8, 156)])
def test_random(share: float, count: int) -> None:
    keep = random_keep(3, 784, share=share, device=CPU)
    assert keep.shape == (3, count)
    assert all(len(row.unique()) == count for row in keep)
    assert keep.min() >= 0 and keep.max() < 784
