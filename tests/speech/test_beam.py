"""Search of units: prefix scores equal CTC, beams equal exhaustive search, batches equal clips."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.speech.beam import beam_search
from avssl.speech.decoding import Decoding, StepScorer
from avssl.speech.greedy import greedy
from avssl.speech.prefix import PrefixScorer
from avssl.speech.search import decode


def random_ctc(batch: int, time: int, units: int, *, seed: int, sharp: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, time, units, generator=generator) * sharp).log_softmax(-1)


def toy_scorer(units: int, *, seed: int) -> StepScorer:
    """Log-probabilities that depend on the last two units, the length and the clip."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(4, 5, units, units, units, generator=generator).log_softmax(-1)

    def score(prefixes: Tensor, clips: Tensor) -> Tensor:
        last = prefixes[:, -1]
        before = prefixes[:, -2] if prefixes.shape[1] > 1 else last
        return table[clips % 4, prefixes.shape[1] % 5, before, last]  # [N, U]

    return score


def ctc(log_probs: Tensor, units: Sequence[int]) -> float:
    """Log-probability that CTC gives units, by torch; log_probs [T, U]."""
    if not units:
        return float(log_probs[:, 0].double().sum())
    loss = F.ctc_loss(
        log_probs.double()[:, None],
        torch.tensor([list(units)]),
        torch.tensor([len(log_probs)]),
        torch.tensor([len(units)]),
        reduction="sum",
    )
    return -float(loss)


def said(scorer: StepScorer | None, units: Sequence[int], clip: int, end: int) -> float:
    """Log-probability of a whole text by a step scorer."""
    text = [end, *units, end]
    total = 0.0
    for place in range(1, len(text) if scorer else 0):
        scores = scorer(torch.tensor([text[:place]]), torch.tensor([clip]))  # type: ignore[misc]
        total += float(scores[0, text[place]])
    return total


def total(
    log_probs: Tensor,
    units: Sequence[int],
    scorer: StepScorer | None,
    settings: Decoding,
    *,
    lm: StepScorer | None = None,
    clip: int = 0,
) -> float:
    """The score that a text should have; log_probs [T, U]."""
    end, weight = log_probs.shape[1] - 1, settings.ctc_weight if scorer else 1.0
    score = settings.length_bonus * len(units) + (weight and weight * ctc(log_probs, units))
    score += (1 - weight) * said(scorer, units, clip, end)
    return score + settings.lm_weight * said(lm, units, clip, end)


@pytest.mark.parametrize("units", [(), (1,), (2, 2), (3, 1, 1, 2), (1, 2, 3, 1, 2)])
def test_prefix_scores_equal_torch_ctc(units: tuple[int, ...]) -> None:
    lengths = torch.tensor([9, 7])
    log_probs = random_ctc(2, 9, 5, seed=len(units))
    scorer = PrefixScorer(log_probs, lengths)
    state = scorer.start()
    for unit in units:
        parents = torch.zeros(2, 1, dtype=torch.int64)
        state = scorer.advance(state, parents, torch.full((2, 1), unit))
    _, whole = scorer.extensions(state)
    expected = [ctc(log_probs[clip, :length], units) for clip, length in enumerate((9, 7))]
    assert whole[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_prefix_holds_the_texts_that_begin_with_it() -> None:
    log_probs = random_ctc(1, 5, 4, seed=0)
    scorer = PrefixScorer(log_probs, torch.tensor([5]))
    first, _ = scorer.extensions(scorer.start())
    for unit in (1, 2, 3):
        texts = [(unit, *rest) for n in range(5) for rest in itertools.product((1, 2, 3), repeat=n)]
        mass = torch.tensor([ctc(log_probs[0], text) for text in texts]).exp().sum()
        assert float(first[0, 0, unit].exp()) == pytest.approx(float(mass), rel=1e-6)


def test_prefix_scores_bear_extreme_and_impossible_scores() -> None:
    log_probs = (random_ctc(1, 300, 6, seed=1) * 60).log_softmax(-1)
    log_probs[0, ::3, 2] = -torch.inf
    units = greedy(log_probs, torch.tensor([300]))[0].units
    scorer = PrefixScorer(log_probs, torch.tensor([300]))
    state = scorer.start()
    for unit in units:
        scores, _ = scorer.extensions(state)
        assert not scores.isnan().any() and torch.isfinite(scores[..., 1:]).any()
        state = scorer.advance(state, torch.zeros(1, 1).long(), torch.tensor([[unit]]))
    _, whole = scorer.extensions(state)
    assert float(whole) == pytest.approx(ctc(log_probs[0], units), rel=1e-6)


@pytest.mark.parametrize(
    ("weight", "bonus", "with_lm"),
    [(0.1, 0.0, False), (0.5, 0.7, True), (0.9, -0.4, True), (0.0, 0.7, False), (1.0, 0.0, True)],
)
def test_a_wide_beam_equals_exhaustive_search(weight: float, bonus: float, with_lm: bool) -> None:
    frames, units = 4, 5  # 3 units of text: 1 + 3 + 9 + 27 + 81 texts
    lm = toy_scorer(units, seed=9) if with_lm else None
    settings = Decoding(beam=200, ctc_weight=weight, length_bonus=bonus, lm_weight=0.3)
    lengths = torch.tensor([4, 3, 4])
    log_probs, scorer = random_ctc(3, frames, units, seed=3), toy_scorer(units, seed=4)
    found = beam_search(log_probs, lengths, scorer, settings=settings, lm=lm)
    for clip, length in enumerate(lengths.tolist()):
        texts = [text for n in range(length + 1) for text in itertools.product((1, 2, 3), repeat=n)]
        scores = {
            text: total(log_probs[clip, :length], text, scorer, settings, lm=lm, clip=clip)
            for text in texts
        }
        best = max(scores, key=scores.__getitem__)
        assert tuple(found[clip].units) == best
        assert found[clip].score == pytest.approx(scores[best], abs=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 4, 10])
def test_a_beam_is_never_worse_than_greedy(beam: int) -> None:
    units, scorer = 8, toy_scorer(8, seed=5)
    log_probs, lengths = random_ctc(12, 12, units, seed=beam), torch.arange(1, 13)
    for settings in (Decoding(beam=beam, ctc_weight=0.3), Decoding(beam=beam, ctc_weight=1.0)):
        found = beam_search(log_probs, lengths, scorer, settings=settings)
        for clip, (text, plain) in enumerate(zip(found, greedy(log_probs, lengths), strict=True)):
            frames = log_probs[clip, : lengths[clip]]
            of_text = total(frames, text.units, scorer, settings, clip=clip)
            assert text.score == pytest.approx(of_text, abs=1e-4)
            assert of_text >= total(frames, plain.units, scorer, settings, clip=clip) - 1e-6


@pytest.mark.parametrize("settings", [Decoding(beam=3, length_bonus=0.3), Decoding(ctc_weight=0)])
def test_a_batch_reads_as_clips_one_by_one(settings: Decoding) -> None:
    lengths = torch.tensor([15, 3, 9, 15, 1])
    log_probs, scorer = random_ctc(5, 15, 7, seed=6), toy_scorer(7, seed=7)
    together = decode(log_probs, lengths, scorer, settings=settings)
    for clip, length in enumerate(lengths.tolist()):

        def alone(prefixes: Tensor, clips: Tensor, clip: int = clip) -> Tensor:
            return scorer(prefixes, clips + clip)

        (single,) = decode(
            log_probs[clip : clip + 1, :length], lengths[clip : clip + 1], alone, settings=settings
        )
        assert single.units == together[clip].units
        assert single.score == pytest.approx(together[clip].score, abs=1e-5)
        assert single.posteriors == pytest.approx(together[clip].posteriors, abs=1e-5)


def test_greedy_collapses_and_knows_how_sure_it_is() -> None:
    path = torch.tensor([[0, 2, 2, 0, 2, 3, 3, 1]])
    log_probs = torch.log(F.one_hot(path, 5) * 0.8 + 0.04)  # [1, 8, 5]
    (found,) = greedy(log_probs, torch.tensor([7]))
    assert found.units == [2, 2, 3]
    assert found.posteriors == pytest.approx([0.84] * 3) and found.confidence == pytest.approx(0.84)
    (nothing,) = greedy(log_probs, torch.tensor([1]))
    assert nothing.units == [] and nothing.confidence == pytest.approx(0.84)
    assert decode(log_probs, torch.tensor([7]), None, settings=Decoding(method="greedy")) == [found]


def test_confidence_tells_sure_from_unsure() -> None:
    path = torch.tensor([[0, 2, 0, 3, 0, 1, 0, 0]])
    sure = torch.log(F.one_hot(path, 5) * 0.99 + 0.002)
    unsure = torch.log(F.one_hot(path, 5) * 0.3 + 0.14)
    lengths, settings = torch.tensor([8]), Decoding(beam=5)
    high, low = (beam_search(x, lengths, None, settings=settings)[0] for x in (sure, unsure))
    assert high.units == [2, 3, 1] and high.confidence > 0.9 > low.confidence > 0
    assert len(high.posteriors) == 3 and all(0 <= value <= 1 for value in low.posteriors)


def test_no_more_units_than_the_ratio_allows() -> None:
    log_probs = random_ctc(2, 12, 4, seed=8)
    settings = Decoding(ctc_weight=0.0, length_bonus=50.0, max_ratio=0.5)
    lengths = torch.tensor([12, 5])
    found = beam_search(log_probs, lengths, toy_scorer(4, seed=1), settings=settings)
    assert [len(text.units) for text in found] == [6, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "best"}, {"beam": 0}, {"ctc_weight": 1.1}, {"ctc_weight": float("nan")},
        {"lm_weight": -1.0}, {"length_bonus": float("inf")}, {"max_ratio": 0.0},
    ],
)  # fmt: skip
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Decoding(**wrong)  # type: ignore[arg-type]


def test_beam_10_is_far_faster_than_real_time() -> None:
    """Search alone, of 3 s clips; a length bonus keeps all hypotheses going to the end."""
    log_probs, lengths = random_ctc(4, 75, 60, seed=1), torch.full((4,), 75)
    begin = time.process_time()
    beam_search(log_probs, lengths, toy_scorer(60, seed=1), settings=Decoding(length_bonus=1.0))
    assert time.process_time() - begin < 12.0 / 2  # s of clips
