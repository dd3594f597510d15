"""Losses between predicted and true transcripts: CTC, and cross entropy of the attention decoder.

A clip counts by the sum over its units, and a batch by the mean over its clips, as RAVEn has it
(arXiv 2212.06246); ranks hold as many clips each, so that their mean is that of one process.
Letters: B clips, T frames, V real frames, L units of a text and its end, U units.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.blocks.text_decoder import IGNORED
from avssl.ops.frames import valid_frames
from avssl.ops.gather import sum_over_ranks
from avssl.ops.random import rank_and_world
from avssl.registry import register


@register("ctc_loss")
class CtcLoss(nn.Module):
    """-log of the probability of the text, over all ways to place its units among the frames
    (Graves et al. 2006); unit 0 is the blank. A text that does not fit its frames counts 0.

    torch reads its lengths on the host: torch.compile breaks a graph here, and runs the calls of
    such a graph eagerly, with the modules compiled one by one.

    Example::

        CtcLoss()(torch.randn(2, 75, 30), torch.tensor([[5, 7, -1], [9, 9, 3]]))
    """

    outputs = ("loss",)

    def forward(self, logits: Tensor, text: Tensor, frames: Tensor | None = None) -> Tensor:
        """logits: [B, T, U]. text: int64 [B, L - 1], -1 behind its end. frames: int64 [V], the
        real ones of [B * T]. Returns a float32 scalar."""
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)  # [T, B, U]
        if logits.device.type == "meta":  # torch counts lengths, which meta tensors do not have
            return log_probs.sum()
        time, batch = log_probs.shape[:2]
        loss = F.ctc_loss(
            log_probs,
            text.clamp(min=0),
            valid_frames(frames, batch, time, device=logits.device).sum(1),
            (text != IGNORED).sum(1),
            reduction="none",
            zero_infinity=True,
        )  # [B]
        return loss.mean()


@register("text_cross_entropy")
class TextCrossEntropy(nn.Module):
    """Cross entropy of each unit of a text, and of its end, given those before.

    Args:
        smoothing: share of the target that goes to all units alike.

    Example::

        logits = torch.randn(2, 4, 30)
        TextCrossEntropy(smoothing=0.1)(logits, torch.tensor([[5, 7, -1], [9, 9, 3]]))
    """

    outputs = ("loss",)

    def __init__(self, *, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"text_cross_entropy: smoothing {smoothing} is not in [0, 1)")
        self.smoothing = smoothing

    def forward(self, logits: Tensor, text: Tensor) -> Tensor:
        """logits: [B, L, U]. text: int64 [B, L - 1], -1 behind its end. Returns a float32
        scalar."""
        total = F.cross_entropy(
            logits.float().flatten(0, 1),
            targets(text, logits.shape[-1] - 1).flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing,
        )
        return total / text.shape[0]


@register("text_accuracy")
class TextAccuracy(nn.Module):
    """Share of units, the end among them, that are the most probable ones given the true units
    before them; for the log, no gradient.

    Example::

        TextAccuracy()(torch.randn(2, 4, 30), torch.tensor([[5, 7, -1], [9, 9, 3]]))
    """

    outputs = ("accuracy",)

    def forward(self, logits: Tensor, text: Tensor) -> Tensor:
        """logits: [B, L, U]. text: int64 [B, L - 1], -1 behind its end. Returns a scalar, whose
        mean over ranks is that of the global batch."""
        wanted = targets(text, logits.shape[-1] - 1)  # [B, L]
        right = (logits.detach().argmax(-1) == wanted).sum().float()
        every = sum_over_ranks((wanted != IGNORED).sum())  # of the global batch
        return right * rank_and_world()[1] / every


def targets(text: Tensor, end: int) -> Tensor:
    """Units with the end behind them: int64 [B, L] of [B, L - 1], -1 behind the end."""
    target = F.pad(text, (0, 1), value=IGNORED)  # [B, L]
    place = torch.arange(target.shape[1], device=text.device)  # [L]
    return target.where(place != (text != IGNORED).sum(1, keepdim=True), end)
