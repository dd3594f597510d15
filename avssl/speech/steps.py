"""The attention decoder as a search asks for it: log-probabilities of the next unit of many texts.

Letters: B clips, T frames, W width of the frames, N texts, L length of a text with its start, U
units, H heads, Dh width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avssl.blocks.text_decoder import Past, TextDecoder, hidden_frames
from avssl.errors import UserError


class DecoderSteps:
    """A `StepScorer` of the clips of a batch.

    Texts that continue those of the call before by one unit, in whatever order and number, cost one
    step; others are gone through from their start.

    Args:
        decoder: in eval mode. memory: [B, T, W]. lengths: int64 [B], real frames of each clip.
    """

    def __init__(self, decoder: TextDecoder, memory: Tensor, lengths: Tensor) -> None:
        self.decoder = decoder
        self.keys = decoder.keys(memory)
        places = torch.arange(memory.shape[1], device=memory.device)
        self.hidden = hidden_frames(places < lengths[:, None], memory)  # [B, 1, 1, T]
        self.texts = torch.empty(0, 0, dtype=torch.int64, device=memory.device)  # [N, L]
        self.clips = torch.empty(0, dtype=torch.int64, device=memory.device)  # [N]
        self.past: list[Past] = []

    @torch.no_grad()
    def __call__(self, prefixes: Tensor, clips: Tensor) -> Tensor:
        """prefixes: int64 [N, L], from the start on; clips: int64 [N], rows of the batch. Returns
        [N, U].

        Raises:
            UserError: the log-probabilities are not finite.
        """
        rows = self._rows_before(prefixes, clips)
        past: list[Past | None] = [None for _ in self.keys]
        if rows is not None:
            past = [(k[rows], v[rows]) for k, v in self.past]
        first = 0 if rows is None else prefixes.shape[1] - 1
        for place in range(first, prefixes.shape[1]):
            units = prefixes[:, place]  # [N]
            logits, grown = self.decoder.step(units, past, self.keys, self.hidden, clips)
            past = list(grown)
        self.texts, self.clips, self.past = prefixes, clips, grown
        return finite(logits.float().log_softmax(-1))  # [N, U]

    def _rows_before(self, prefixes: Tensor, clips: Tensor) -> Tensor | None:
        """The text of the call before that each one continues, int64 [N]; None if one does not."""
        if self.texts.shape[1] != prefixes.shape[1] - 1 or not len(self.texts):
            return None
        same = (prefixes[:, None, :-1] == self.texts).all(-1) & (clips[:, None] == self.clips)
        return same.int().argmax(1) if bool(same.any(1).all()) else None  # of [N, N before]


def finite(log_probs: Tensor) -> Tensor:
    """The same.

    Raises:
        UserError: they are not finite.
    """
    if not log_probs.isfinite().all():
        raise UserError(
            "the scores of the units are not finite: the model diverged, or its weights are damaged"
        )
    return log_probs
