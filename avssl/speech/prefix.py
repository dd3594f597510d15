"""CTC prefix scores (Graves 2008; Watanabe et al. 2017): what CTC gives a beginning of a text.

For a prefix g and frame t, the forward variables are the log-probabilities that frames 1 to t read
as g with a last frame that is no blank (`said`) or a blank (`silent`). The recursion over t,
    said'[t] = log(exp(said'[t-1]) + exp(entered[t-1])) + x[t]
becomes one cumulative sum after x[1] + ... + x[t] is taken off, so no loop runs over frames.

Letters: B clips, K hypotheses of each, T frames, U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avssl.speech.decoding import BLANK

# stands for a probability of 0: even the sum of all frames' is a number that double precision has
_LOWEST = -500.0


@dataclass(frozen=True)
class PrefixState:
    """Forward variables of hypotheses.

    Attributes:
        said, silent: float64 [B, K, T + 1], from before the first frame on.
        last: int64 [B, K], the last unit of each.
    """

    said: Tensor
    silent: Tensor
    last: Tensor


class PrefixScorer:
    """Scores beginnings of texts for the clips of a batch.

    Args:
        log_probs: [B, T, U], natural logarithms; unit 0 is the blank.
        lengths: [B], frames of each clip.
    """

    def __init__(self, log_probs: Tensor, lengths: Tensor) -> None:
        _, time, self._units = log_probs.shape
        self._lengths = lengths.to(log_probs.device)
        beyond = torch.arange(time, device=log_probs.device) >= self._lengths[:, None]  # [B, T]
        scores = log_probs.double().masked_fill(beyond[..., None], _LOWEST)
        self._scores = scores.clamp(min=_LOWEST)  # [B, T, U]
        self._probabilities = self._scores.exp()  # [B, T, U]
        self._beyond = beyond[:, None]  # [B, 1, T]
        self._silence = _cumulative(self._scores[:, None, :, BLANK])  # [B, 1, T + 1]

    def start(self) -> PrefixState:
        """Of the empty text, the only hypothesis of each clip (K = 1)."""
        last = self._lengths.new_full((len(self._lengths), 1), self._units - 1)
        return PrefixState(torch.full_like(self._silence, -torch.inf), self._silence, last)

    def extensions(self, state: PrefixState) -> tuple[Tensor, Tensor]:
        """Scores of every hypothesis with one more unit, and of each as the whole text.

        Returns:
            float64 [B, K, U], natural logarithms of the probability of all texts that begin so;
            float64 [B, K], of this very text.
        """
        entered = self._entered(torch.logaddexp(state.said, state.silent))  # [B, K, T]
        peak = entered.amax(-1, keepdim=True).clamp(min=-1e30)  # [B, K, 1]
        # at the peak the product is at least exp(_LOWEST), so the sum never vanishes
        mass = (entered - peak).exp() @ self._probabilities  # [B, K, U]
        scores = mass.log() + peak
        # a unit that repeats the last one needs a blank between them
        again = self._entered(state.silent) + self._of(state.last)  # [B, K, T]
        scores = scores.scatter(2, state.last[..., None], again.logsumexp(-1, keepdim=True))
        at = self._lengths[:, None, None].expand(*state.last.shape, 1)  # [B, K, 1]
        whole = torch.logaddexp(state.said.gather(2, at), state.silent.gather(2, at))
        return scores, whole[..., 0]

    def advance(self, state: PrefixState, parents: Tensor, units: Tensor) -> PrefixState:
        """The state of hypotheses made of `parents` [B, K'] (places in K) and one unit [B, K']."""
        rows = parents[..., None].expand(-1, -1, state.said.shape[2])  # [B, K', T + 1]
        said, silent = state.said.gather(1, rows), state.silent.gather(1, rows)
        repeated = units == state.last.gather(1, parents)  # [B, K']
        entered = torch.where(repeated[..., None], silent, torch.logaddexp(said, silent))
        spoken = _cumulative(self._of(units))  # [B, K', T + 1]
        said = _accumulated(entered, spoken)
        return PrefixState(said, _accumulated(said, self._silence), units)

    def _entered(self, forward: Tensor) -> Tensor:
        """[B, K, T + 1] before each frame -> [B, K, T], impossible beyond a clip's length."""
        return forward[..., :-1].masked_fill(self._beyond, -torch.inf)

    def _of(self, units: Tensor) -> Tensor:
        """[B, K, T], scores of units [B, K] in each frame."""
        time = self._scores.shape[1]
        return self._scores.gather(2, units[:, None].expand(-1, time, -1)).transpose(1, 2)


def _cumulative(scores: Tensor) -> Tensor:
    """[B, K, T] -> [B, K, T + 1], sums of all frames before each and of all."""
    return torch.nn.functional.pad(scores.cumsum(-1), (1, 0))


def _accumulated(source: Tensor, scores: Tensor) -> Tensor:
    """out[t] = log(exp(out[t-1]) + exp(source[t-1])) + score of frame t; out[0] = -inf.

    Args:
        source: [B, K, T + 1]. scores: cumulative, [B, K or 1, T + 1].
    """
    inner = (source - scores)[..., :-1].logcumsumexp(-1)  # [B, K, T]
    return torch.nn.functional.pad(inner + scores[..., 1:], (1, 0), value=-torch.inf)
