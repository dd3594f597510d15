"""A language model of n-grams of units, smoothed as by Kneser and Ney (1995), interpolated.

Letters: N hypotheses, L length of their beginnings, U units.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from avssl.speech.decoding import BLANK

_Table = dict[tuple[int, ...], Counter[int]]  # what follows which context how often


class NgramLM:
    """Scores the next unit by the `order` - 1 before it; what `beam_search` takes as `lm`.

    Args:
        units: U, with blank and end.
        order: n.
        tables: for each length of context from 0 on, the counts; those shorter than the longest
            count in how many contexts a unit follows, but those that begin a text count themselves.

    Example::

        lm = NgramLM.train([[1, 2, 1], [1, 2]], units=4, order=2)
        lm(torch.tensor([[3, 1]]), torch.tensor([0]))     # [1, 4]; 3 is start and end
    """

    def __init__(self, units: int, order: int, tables: Sequence[_Table]) -> None:
        self.units, self.order, self.tables = units, order, list(tables)
        self._discounts = [_discount(table) for table in self.tables]
        self._known: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def train(cls, texts: Iterable[Sequence[int]], *, units: int, order: int) -> NgramLM:
        """Count the texts, given as units without start and end."""
        if order < 1:
            raise ValueError(f"order must be at least 1, found {order}.")
        end = units - 1
        tables: list[_Table] = [defaultdict(Counter) for _ in range(order)]
        for text in texts:
            line = (end, *text, end)
            for place in range(1, len(line)):
                # as long a context as there is: raw counts at the top and where a text begins
                length = min(order - 1, place)
                tables[length][line[place - length : place]][line[place]] += 1
        for length in range(order - 1, 0, -1):
            for context, followers in tables[length].items():
                for unit in followers:
                    tables[length - 1][context[1:]][unit] += 1
        return cls(units, order, [dict(table) for table in tables])

    def __call__(self, prefixes: Tensor, clips: Tensor) -> Tensor:
        """Log-probabilities [N, U] after prefixes [N, L], which begin with the start."""
        tails = prefixes[:, max(0, prefixes.shape[1] - self.order + 1) :].tolist()
        return torch.stack([self._after(tuple(tail)) for tail in tails]).to(prefixes.device)

    def _after(self, context: tuple[int, ...]) -> Tensor:
        """Log-probabilities [U] after a context; the blank's is -inf."""
        if context not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[context] = self._probabilities(context).log().float()
        return self._known[context]

    def _probabilities(self, context: tuple[int, ...]) -> Tensor:
        """[U] in double precision: each length of context leaves its discount to the shorter."""
        found = torch.full((self.units,), 1 / (self.units - 1), dtype=torch.float64)
        found[BLANK] = 0.0
        for length in range(len(context) + 1):
            followers = self.tables[length].get(context[len(context) - length :])
            if not followers:
                break
            discount, count = self._discounts[length], sum(followers.values())
            found *= discount * len(followers) / count
            places = torch.tensor(list(followers))
            counts = torch.tensor(list(followers.values()), dtype=torch.float64)
            found[places] += (counts - discount) / count
        return found


def _discount(table: _Table) -> float:
    """What each count gives up: n1 / (n1 + 2 n2), of the n-grams that came once and twice."""
    seen = Counter(count for followers in table.values() for count in followers.values())
    if not seen[1]:
        return 0.1  # [choice] unseen units keep some probability
    return min(seen[1] / (seen[1] + 2 * seen[2]), 0.9)  # [choice] seen ones as well
