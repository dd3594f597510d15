"""When each word was said: forced alignment of a text to CTC scores (Graves et al. 2006, Viterbi).

Letters: T frames, U units, L units of the text.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avssl.speech.decoding import BLANK, Hypothesis
from avssl.speech.units import Units


@dataclass(frozen=True)
class Word:
    """A word, the seconds it is said from and to, and how sure the search was of it (0 to 1)."""

    text: str
    start: float
    end: float
    confidence: float


def words(log_probs: Tensor, hypothesis: Hypothesis, units: Units, *, rate: float) -> list[Word]:
    """The words of a hypothesis with their times, in order.

    CTC says a unit where it is surest of it, so that times are those of a word's core, good to
    about a tenth of a second. A text that the frames cannot hold (attention alone may give one) has
    no times: all of its words last as long as the clip.

    Args:
        log_probs: [T, U] of CTC, natural logarithms, without padding.
        rate: frames per second.
    """
    spans = unit_frames(log_probs, hypothesis.units)
    found = []
    for text, places in _by_word(hypothesis.units, units):
        first, last = spans[places[0]][0], spans[places[-1]][1]
        sure = [hypothesis.posteriors[place] for place in places]
        found.append(Word(text, first / rate, last / rate, sum(sure) / len(sure)))
    return found


def unit_frames(log_probs: Tensor, units: Sequence[int]) -> list[tuple[int, int]]:
    """For each unit, its first frame and the one behind its last on the best path of CTC.

    Args:
        log_probs: [T, U].
    """
    from torchaudio.functional import forced_align

    frames = len(log_probs)
    repeats = sum(one == other for one, other in itertools.pairwise(units))
    if not units or frames < len(units) + repeats:
        return [(0, frames)] * len(units)
    scores = log_probs.detach().float().cpu().clamp(min=-1e4)[None]  # [1, T, U]
    path, _ = forced_align(scores, torch.tensor([list(units)], dtype=torch.int32), blank=BLANK)
    spans: list[tuple[int, int]] = []
    previous = BLANK
    for frame, unit in enumerate(path[0].tolist()):
        if unit != BLANK:
            start = spans.pop()[0] if unit == previous else frame
            spans.append((start, frame + 1))
        previous = unit
    return spans


def _by_word(numbers: Sequence[int], units: Units) -> list[tuple[str, list[int]]]:
    """Each word with the places of its units; a unit of nothing but space belongs to none."""
    found: list[tuple[str, list[int]]] = []
    for place in range(len(numbers)):
        if not units.decode(numbers[place : place + 1]):
            continue
        texts = units.decode(numbers[: place + 1]).split()
        if len(texts) > len(found):
            found.append((texts[-1], []))
        found[-1] = (texts[-1], [*found[-1][1], place])
    return found
