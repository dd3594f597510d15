"""How units are searched for: the settings, which are stored with a model, and what comes out.

Letters: N hypotheses, L length of their beginnings, U units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:  # configurations are checked without torch
    from collections.abc import Callable

    from torch import Tensor

_WIDEST = 1000  # hypotheses; memory grows with them
BLANK = 0  # unit 0 is CTC's blank, the last one both the start and the end of a text

# prefixes int64 [N, L], all beginning with the start, and the row of the batch int64 [N] that each
# belongs to -> log-probabilities [N, U] of the next unit
StepScorer: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class Decoding:
    """The section `speech.decode`.

    A text scores (1 - ctc_weight) attention + ctc_weight CTC + lm_weight language model, all
    natural logarithms of probabilities, + length_bonus for each unit.

    Attributes:
        method: "beam", or "greedy": the best unit of each frame, by CTC alone.
        beam: hypotheses kept of each clip, besides the greedy one.
        ctc_weight: 0 takes the attention decoder alone, 1 CTC alone.
        length_bonus: for each unit, against the preference for short texts.
        lm_weight: of the language model, where one is given.
        max_ratio: units per frame, at most.
    """

    method: Literal["greedy", "beam"] = "beam"
    beam: int = 10
    ctc_weight: float = 0.1
    length_bonus: float = 0.0
    lm_weight: float = 0.0
    max_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in ("greedy", "beam"):
            raise ValueError(f"method must be greedy or beam, found {self.method!r}.")
        if not 1 <= self.beam <= _WIDEST:
            raise ValueError(f"beam must be from 1 to {_WIDEST}, found {self.beam}.")
        if not 0 <= self.ctc_weight <= 1:
            raise ValueError(f"ctc_weight must be from 0 to 1, found {self.ctc_weight}.")
        if not 0 <= self.lm_weight < math.inf:
            raise ValueError(f"lm_weight must be at least 0, found {self.lm_weight}.")
        if self.lm_weight and self.method == "greedy":
            raise ValueError(
                f"lm_weight is {self.lm_weight:g}, but method: greedy takes no language model."
            )
        if not math.isfinite(self.length_bonus):
            raise ValueError(f"length_bonus must be a number, found {self.length_bonus}.")
        if not 0 < self.max_ratio <= 1:
            raise ValueError(f"max_ratio must be above 0, at most 1, found {self.max_ratio}.")


@dataclass(frozen=True)
class Hypothesis:
    """What a search found for a clip.

    Attributes:
        units: without blank, start and end.
        score: natural logarithm: of beam search the weighted sum, of greedy search the
            probability of its path.
        posteriors: how sure the search was of each unit, 0 to 1.
        confidence: their mean; how sure it was that there is nothing, where `units` is empty.
    """

    units: list[int]
    score: float
    confidence: float
    posteriors: list[float] = field(default_factory=list)
