"""Span masks: shares, padding, equal counts, and the distribution of fairseq's sampler."""

import numpy as np
import pytest
import torch
from torch import Tensor

from avssl.blocks.spans import SpanMask
from avssl.ops.frames import valid_frames
from tests.recipes.raven import indices

LENGTHS = (40, 31, 40, 12)


def draw(clips: int, length: int, **args: object) -> Tensor:
    torch.manual_seed(0)
    return SpanMask(**args)(torch.zeros(clips, length, 640))  # type: ignore[arg-type]


def fairseq(clips: int, length: int, random: np.random.Generator) -> np.ndarray:
    """The sampler as the recipe tells it, clip by clip, with 0.2 and spans of 3: [B, T]."""
    masked = []
    for _ in range(clips):
        count = max(1, int(0.2 * length / 3 + random.random()))
        starts = random.choice(length - 3, count, replace=False)
        masked.append(sorted({start + step for start in starts for step in range(3)}))
    fewest = min(map(len, masked))
    found = np.zeros((clips, length))
    for row, places in zip(found, masked, strict=True):
        row[random.choice(places, fewest, replace=False)] = 1
    return found


@pytest.mark.parametrize(("clips", "length"), [(1, 40), (1, 11), (6, 40)])
def test_it_masks_as_often_as_fairseq_at_every_place(clips: int, length: int) -> None:
    random, repeats = np.random.default_rng(0), 1200 // clips
    expected = np.concatenate([fairseq(clips, length, random) for _ in range(repeats)]).mean(0)
    torch.manual_seed(0)
    masks = [SpanMask()(torch.zeros(clips, length, 640)) for _ in range(repeats)]
    found = torch.cat(masks).mean(0).numpy()
    assert np.abs(found - expected).max() < 0.07  # 1200 draws: 4 standard deviations
    assert found.mean() == pytest.approx(expected.mean(), abs=0.01)


def test_the_two_readings_of_the_recipe() -> None:
    # 1 - 0.8^3, a little less at the first frames; a fifth, less overlaps and the smallest count
    by_text = draw(400, 100, kind="span_start_prob").mean(0)
    assert by_text[2:].mean() == pytest.approx(1 - 0.8**3, abs=0.01)
    assert by_text[0] == pytest.approx(0.2, abs=0.06)
    assert draw(1, 20_000)[0].mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("kind", ["span_fraction", "span_start_prob"])
def test_padding_is_never_masked_and_every_clip_has_something(kind: str) -> None:
    frames = indices(LENGTHS, 40)
    valid = valid_frames(frames, 4, 40)
    for seed in range(50):
        torch.manual_seed(seed)
        mask = SpanMask(kind=kind)(torch.zeros(4, 1, 40, 8, 8), frames)  # type: ignore[arg-type]
        assert mask.shape == (4, 40) and set(mask.unique().tolist()) <= {0.0, 1.0}
        assert not mask[~valid].any() and (mask.sum(1) >= 1).all()
        if kind == "span_fraction":
            assert mask.sum(1).unique().numel() == 1  # every clip as few as the fewest


@pytest.mark.parametrize("kind", ["span_fraction", "span_start_prob"])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_clips_shorter_than_a_span(kind: str, length: int) -> None:
    mask = draw(8, length, kind=kind)
    assert (mask.sum(1) >= 1).all()


def test_spans_are_spans() -> None:
    mask = draw(1, 200, kind="span_start_prob", share=0.02)[0].bool()
    edges = torch.nn.functional.pad(mask, (1, 1)).int().diff()
    lengths = (edges == -1).nonzero() - (edges == 1).nonzero()
    assert (lengths >= 3).all()


def test_wrong_shares_are_refused() -> None:
    for args in ({"share": 0.0}, {"share": 1.2}, {"span": 0}):
        with pytest.raises(ValueError, match="span_mask needs a share above 0"):
            SpanMask(**args)  # type: ignore[arg-type]
