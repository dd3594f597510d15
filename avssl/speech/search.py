"""From scores to units: one entry for both kinds of search."""

from __future__ import annotations

from torch import Tensor

from avssl.speech.beam import beam_search
from avssl.speech.decoding import Decoding, Hypothesis, StepScorer
from avssl.speech.greedy import greedy


def decode(
    log_probs: Tensor,
    lengths: Tensor,
    scorer: StepScorer | None,
    *,
    settings: Decoding,
    lm: StepScorer | None = None,
) -> list[Hypothesis]:
    """Search the units of each clip of a batch as `settings` say; see `beam_search`."""
    if settings.method == "greedy":
        return greedy(log_probs, lengths)
    return beam_search(log_probs, lengths, scorer, settings=settings, lm=lm)
