"""Scores of held-out clips: the mean over their views, and what cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from avssl.errors import UserError
from avssl.finetune import loop


def score(batches: list[dict[str, object]], *, several: bool = False, views: int = 1) -> Any:
    class Logits(torch.nn.Module):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["x"]

    return loop.scores(
        Logits(),
        iter(batches),
        several=several,
        views=views,
        bf16=False,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("several", [False, True])
def test_scores_of_a_clip_are_the_mean_over_its_views(several: bool) -> None:
    x = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [5.0, 0.0], [0.0, 1.0]])
    rows = [3, 3, 7, 7, 9, 9]
    target = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 0, 0])).float()
    parts = [
        {"x": x[i:j], "target": target[i:j], "clip": torch.tensor(rows[i:j]), "failures": []}
        for i, j in ((0, 3), (3, 6))  # a clip's views may be in two batches
    ]
    found, targets, failures = score(parts, several=several, views=2)
    each = (x.sigmoid() if several else x.softmax(1)).double().view(3, 2, 2)
    torch.testing.assert_close(found, each.mean(1), atol=1e-6, rtol=0)
    assert targets.tolist() == [[1, 0], [0, 1], [1, 0]] and failures == []
    if not several:  # the mean of logits would say the other class of the first clip
        assert found[0].argmax() == 0


def test_a_clip_that_cannot_be_read_in_all_its_views_does_not_count() -> None:
    lost = [("b.mp4", "damaged")]
    one = {
        "x": torch.zeros(3, 2), "target": torch.eye(2)[[0, 0, 1]],
        "clip": torch.tensor([0, 0, 1]), "failures": lost * 2,
    }  # fmt: skip
    found, targets, failures = score([one], views=2)
    assert len(found) == 1 and targets.tolist() == [[1, 0]] and failures == lost


def test_clips_that_went_away_while_training_end_in_a_sentence() -> None:
    empty = [
        {"target": torch.zeros(0, 2), "failures": [(name, "is gone")]}
        for name in ("00.wav", "1.wav")
    ]
    with pytest.raises(UserError, match=r"none of the 2 held-out clips .* 00\.wav: is gone"):
        score(empty)
