"""Span masks over the frames of clips of different lengths (RAVEn, arXiv 2212.06246, 3.2).

Letters: B batch, T frames.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.ops.frames import valid_frames
from avssl.ops.gather import least_over_ranks
from avssl.ops.random import batch_uniform
from avssl.registry import register

NEVER = 2.0  # above every draw


@register("span_mask")
class SpanMask(nn.Module):
    """Masks spans of frames, drawn per clip; padding is never masked.

    ``span_fraction`` is the sampler of fairseq, as RAVEn's code calls it: floor(share * T / span +
    u) starts with u uniform in [0, 1), without replacement, at least one; spans may overlap;
    afterwards every clip keeps as many masked frames, at random, as the clip of the global batch
    that has fewest. ``span_start_prob`` is RAVEn's text: every frame begins a span with probability
    ``share``, at least one does.

    Args:
        kind: span_fraction | span_start_prob.
        share: share of frames in spans (span_fraction), or probability of a start.
        span: frames of a span; it ends with its clip.

    Example::

        SpanMask(share=0.2, span=3)(torch.zeros(8, 1, 50, 88, 88)).mean()  # about 0.18
    """

    outputs = ("mask",)

    def __init__(
        self,
        *,
        kind: Literal["span_fraction", "span_start_prob"] = "span_fraction",
        share: float = 0.2,
        span: int = 3,
    ) -> None:
        super().__init__()
        if not 0 < share <= 1 or span < 1:
            raise ValueError(
                f"span_mask needs a share above 0 and up to 1 and a span of 1 or more, "
                f"not {share} and {span}"
            )
        self.kind, self.share, self.span = kind, share, span

    def forward(self, like: Tensor, frames: Tensor | None = None) -> Tensor:
        """Draw one mask per clip.

        Args:
            like: [B, 1, T, S, S] or [B, T, 640], read for its shape and device alone.
            frames: int64 [V].

        Returns:
            float32 [B, T], 1 where masked.
        """
        batch, time = like.shape[0], like.shape[2] if like.dim() == 5 else like.shape[1]
        valid = valid_frames(frames, batch, time, device=like.device)  # [B, T]
        noise = batch_uniform(batch, time, device=like.device)  # [B, T]
        if self.kind == "span_start_prob":
            masked = self._spans(self._by_chance(noise, valid)) & valid
            return masked.to(torch.float32)
        masked = self._spans(self._by_count(noise, valid)) & valid  # [B, T]
        return _as_few_as_the_fewest(masked).to(torch.float32)

    def _by_chance(self, noise: Tensor, valid: Tensor) -> Tensor:
        """Starts, bool [B, T]: those below the share, and the lowest where none is."""
        noise = noise.masked_fill(~valid, NEVER)
        return noise <= noise.amin(1, keepdim=True).clamp(min=self.share)

    def _by_count(self, noise: Tensor, valid: Tensor) -> Tensor:
        """Starts, bool [B, T]: a number that grows with the length of the clip.

        As in fairseq the last possible start leaves one frame behind its span, and clips too short
        for that have one start more to choose from than they need, within the clip.
        """
        length = valid.sum(1, keepdim=True)  # [B, 1]
        chance = batch_uniform(len(valid), 1, device=valid.device)  # [B, 1]
        count = (self.share * length / self.span + chance).floor().clamp(min=1)  # [B, 1]
        choices = torch.minimum(torch.maximum(length - self.span, count + 1), length)  # [B, 1]
        place = torch.arange(valid.shape[1], device=valid.device)  # [T]
        return _rank(noise.masked_fill(place >= choices, NEVER)) < torch.minimum(count, choices)

    def _spans(self, starts: Tensor) -> Tensor:
        """Every start and the frames behind it, bool [B, T]."""
        ahead = F.pad(starts.to(torch.float32), (self.span - 1, 0))[:, None]  # [B, 1, T + span - 1]
        return F.max_pool1d(ahead, self.span, 1)[:, 0] > 0


def _as_few_as_the_fewest(masked: Tensor) -> Tensor:
    """As many masked frames in every clip as in that of the global batch that has fewest."""
    noise = batch_uniform(*masked.shape, device=masked.device)  # [B, T]
    fewest = least_over_ranks(masked.sum(1).min())  # []
    return masked & (_rank(noise.masked_fill(~masked, NEVER)) < fewest)


def _rank(noise: Tensor) -> Tensor:
    """Place of each number of a row in ascending order, int64 [B, T]."""
    return noise.argsort(dim=1).argsort(dim=1)
