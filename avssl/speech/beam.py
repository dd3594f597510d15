"""Joint CTC/attention beam search (Watanabe et al. 2017), for a batch of clips at a time.

All hypotheses have the same length at any time; one step of the decoder scores those of all clips.
The greedy reading is always kept as one more hypothesis, so that the result is never worse by the
search's own score. A clip's search ends when no hypothesis can overtake the best whole text any
more: probabilities only fall, and a length bonus is counted up to the longest possible text.

Letters: B clips, K hypotheses of each, L length of their beginnings, T frames, U units, N those
hypotheses of all clips that are still possible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avssl.speech.decoding import BLANK, Decoding, Hypothesis, StepScorer
from avssl.speech.greedy import greedy
from avssl.speech.prefix import PrefixScorer, PrefixState

_IMPOSSIBLE = -torch.inf


@dataclass
class _Beam:
    """Hypotheses of the same length of all clips.

    Attributes:
        prefixes: int64 [B, K, L], from the start symbol on.
        plain: float64 [B, K], their score without CTC.
        total: float64 [B, K], their score; -inf where there is none.
        sure: float64 [B, K, L - 1], posteriors of their units.
        greedy: int64 [B], which of them the greedy reading begins with.
        state: of CTC, None without it.
    """

    prefixes: Tensor
    plain: Tensor
    total: Tensor
    sure: Tensor
    greedy: Tensor
    state: PrefixState | None


def beam_search(
    log_probs: Tensor,
    lengths: Tensor,
    scorer: StepScorer | None,
    *,
    settings: Decoding,
    lm: StepScorer | None = None,
) -> list[Hypothesis]:
    """The best text of each clip that a beam search finds.

    Args:
        log_probs: [B, T, U] of CTC, natural logarithms; unit 0 is the blank.
        lengths: [B], frames of each clip.
        scorer: attention decoder; None: CTC alone, whatever the settings weigh it.
        settings: weights and sizes.
        lm: language model, weighed by ``settings.lm_weight``.
    """
    search = _Search(log_probs, lengths.to(log_probs.device), scorer, settings, lm)
    return search.run()


class _Search:
    """One search over one batch."""

    def __init__(
        self,
        log_probs: Tensor,
        lengths: Tensor,
        scorer: StepScorer | None,
        settings: Decoding,
        lm: StepScorer | None,
    ) -> None:
        self._batch, _, self._units = log_probs.shape
        self._settings, self._device = settings, log_probs.device
        self._ctc_weight = 1.0 if scorer is None else settings.ctc_weight
        self._prefix = PrefixScorer(log_probs, lengths) if self._ctc_weight else None
        weighed = ((scorer, 1 - self._ctc_weight), (lm, settings.lm_weight))
        self._scorers = [(scored, weight) for scored, weight in weighed if scored and weight]
        self._limits = (lengths * settings.max_ratio).floor().long()  # [B], units at most
        self._paths = _padded([found.units for found in greedy(log_probs, lengths)], self._device)
        self._best: list[Hypothesis | None] = [None] * self._batch

    def run(self) -> list[Hypothesis]:
        """Of each clip, the best whole text."""
        beam = self._start()
        while bool((beam.total > _IMPOSSIBLE).any()):
            plain, total = self._extend(beam)
            sure = total.log_softmax(-1).exp().nan_to_num()  # [B, K, U]
            self._finish(beam, total, sure)
            beam = self._select(beam, plain, total, sure)
        nothing = Hypothesis([], _IMPOSSIBLE, 0.0)
        return [found or nothing for found in self._best]

    def _start(self) -> _Beam:
        zeros = torch.zeros(self._batch, 1, dtype=torch.float64, device=self._device)  # [B, 1]
        prefixes = zeros.new_full((self._batch, 1, 1), self._units - 1, dtype=torch.int64)
        state = self._prefix.start() if self._prefix else None
        first = zeros.new_zeros(self._batch, dtype=torch.int64)
        return _Beam(prefixes, zeros, zeros, zeros[..., None][..., :0], first, state)

    def _extend(self, beam: _Beam) -> tuple[Tensor, Tensor]:
        """Scores [B, K, U] of each hypothesis with one more unit, without and with CTC.

        The last unit's are those of whole texts; the blank's are impossible.
        """
        alive = beam.total > _IMPOSSIBLE  # [B, K]
        prefixes, clips = beam.prefixes[alive], alive.nonzero()[:, 0]  # [N, L], [N]
        step = torch.zeros(len(clips), self._units, dtype=torch.float64, device=self._device)
        for scorer, weight in self._scorers:
            step += weight * scorer(prefixes, clips).to(step)  # [N, U]
        step[:, BLANK] = _IMPOSSIBLE
        step[:, BLANK + 1 : -1] += self._settings.length_bonus
        longest = self._limits[clips] < prefixes.shape[1]  # [N], no more units
        step[:, :-1].masked_fill_(longest[:, None], _IMPOSSIBLE)
        plain = beam.plain[..., None].expand(-1, -1, self._units).clone()
        plain[alive] += step
        plain[~alive] = _IMPOSSIBLE
        if self._prefix is None or beam.state is None:
            return plain, plain
        ctc, whole = self._prefix.extensions(beam.state)  # [B, K, U], [B, K]
        ctc[..., -1] = whole
        return plain, plain + self._ctc_weight * ctc

    def _finish(self, beam: _Beam, total: Tensor, sure: Tensor) -> None:
        """Keep the best whole text of each clip."""
        scores, rows = total[..., -1].max(-1)  # [B] each
        for clip, (score, row) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True)):
            best = self._best[clip]
            if score == _IMPOSSIBLE or (best is not None and best.score >= score):
                continue
            units, each = beam.prefixes[clip, row, 1:].tolist(), beam.sure[clip, row].tolist()
            told = each or [float(sure[clip, row, -1])]
            self._best[clip] = Hypothesis(units, score, sum(told) / len(told), each)

    def _select(self, beam: _Beam, plain: Tensor, total: Tensor, sure: Tensor) -> _Beam:
        """The best hypotheses with one more unit, and the greedy one."""
        flat = total[..., :-1].flatten(1)  # [B, K * (U - 1)]
        count = min(self._settings.beam, flat.shape[1])
        scores, places = flat.topk(count)  # [B, K'] each
        length = beam.prefixes.shape[-1]  # of the beginnings so far, and of the units then
        if length <= self._paths.shape[1]:
            scores, places, own = self._with_greedy(flat, scores, places, beam.greedy, length)
        else:
            own = beam.greedy
        parents, units = places // (self._units - 1), places % (self._units - 1)  # [B, K'] each
        chosen = parents * self._units + units  # [B, K'], places in what has U units
        prefixes = torch.cat((_rows(beam.prefixes, parents), units[..., None]), -1)
        told = sure.flatten(1).gather(1, chosen)  # [B, K']
        state = None
        if self._prefix is not None and beam.state is not None:
            state = self._prefix.advance(beam.state, parents, units)
        return _Beam(
            prefixes,
            plain.flatten(1).gather(1, chosen),
            self._without_ended(scores, length),
            torch.cat((_rows(beam.sure, parents), told[..., None]), -1),
            own,
            state,
        )

    def _with_greedy(
        self, flat: Tensor, scores: Tensor, places: Tensor, rows: Tensor, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One more hypothesis of each clip: the beginning of its greedy reading, if not among them.

        Returns:
            scores and places [B, K' + 1], and which of them it is [B].
        """
        unit = self._paths[:, length - 1]  # [B], -1 where the reading has ended
        place = rows * (self._units - 1) + unit.clamp(min=0)  # [B]
        score = flat.gather(1, place[:, None])[:, 0]  # [B]
        there = (places == place[:, None]) & (unit >= 0)[:, None]  # [B, K']
        added = score.masked_fill(there.any(-1) | (unit < 0), _IMPOSSIBLE)
        own = torch.where(there.any(-1), there.int().argmax(-1), places.shape[1])  # [B]
        scores = torch.cat((scores, added[:, None]), 1)
        return scores, torch.cat((places, place[:, None]), 1), own

    def _without_ended(self, scores: Tensor, length: int) -> Tensor:
        """-inf for hypotheses [B, K] that cannot overtake their clip's best whole text."""
        best = [_IMPOSSIBLE if found is None else found.score for found in self._best]
        floor = scores.new_tensor(best)[:, None]  # [B, 1]
        more = max(self._settings.length_bonus, 0.0) * (self._limits - length).clamp(min=0)  # [B]
        return scores.masked_fill(scores + more[:, None] <= floor, _IMPOSSIBLE)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """values [B, K, L] of hypotheses rows [B, K'] -> [B, K', L]."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


def _padded(lists: list[list[int]], device: torch.device) -> Tensor:
    """[B, longest], -1 behind each list."""
    longest = max(map(len, lists), default=0)
    rows = [each + [-1] * (longest - len(each)) for each in lists]
    return torch.tensor(rows, dtype=torch.int64, device=device).view(len(lists), longest)
