"""Greedy search: the best unit of each frame, repetitions and blanks removed (Graves et al. 2006).

Letters: B clips, T frames, U units.
"""

from torch import Tensor

from avssl.speech.decoding import BLANK, Hypothesis


def greedy(log_probs: Tensor, lengths: Tensor) -> list[Hypothesis]:
    """Read each clip of a batch by CTC alone.

    Args:
        log_probs: [B, T, U], natural logarithms; the last unit, the end of a text, is not read.
        lengths: [B], frames of each clip.
    """
    values, best = log_probs[..., :-1].float().max(-1)  # [B, T] each
    rows = zip(best.tolist(), values.tolist(), values.exp().tolist(), lengths.tolist(), strict=True)
    return [_collapse(*row) for row in rows]


def _collapse(
    best: list[int], values: list[float], probabilities: list[float], length: int
) -> Hypothesis:
    units: list[int] = []
    posteriors: list[float] = []  # of a unit, the highest of its frames
    previous = BLANK
    for unit, probability in zip(best[:length], probabilities[:length], strict=True):
        if unit != BLANK:
            if unit != previous:
                units.append(unit)
                posteriors.append(probability)
            posteriors[-1] = max(posteriors[-1], probability)
        previous = unit
    sure = posteriors or probabilities[:length] or [1.0]
    return Hypothesis(units, sum(values[:length]), sum(sure) / len(sure), posteriors)
