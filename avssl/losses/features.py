"""How near a student's features are to a teacher's: tokens, vectors, and what a block gives.

The first two in each form that is in use, for MimCo (arXiv 2209.03063) does not say which one it
means; the last is DMAE's (arXiv 2208.12256). No gradient reaches a target.
Letters: B batch, G global batch, N tokens, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.losses.contrast import InfoNce
from avssl.ops.gather import gather_batch, global_offset
from avssl.ops.precision import without_autocast
from avssl.registry import register


def _distance(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """[..., D] each. Returns [...]: 2 - 2 cosine, or the error against the target with LayerNorm
    (no weights), the mean over channels."""
    if kind == "cosine":
        return 2 - 2 * F.cosine_similarity(prediction, target, dim=-1)
    target = F.layer_norm(target, target.shape[-1:], eps=1e-6)
    error = F.smooth_l1_loss if kind == "smooth_l1" else F.mse_loss
    return error(prediction, target, reduction="none").mean(-1)


def _same_shape(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {list(prediction.shape)} and target {list(target.shape)} differ"
        )


@register("match_tokens")
class MatchTokens(nn.Module):
    """Each token of a student against the teacher's token at the same place.

    Args:
        kind: infonce, against other places' tokens of the teacher | cosine, 2 - 2 cos | smooth_l1 |
            mse, both against the teacher's token with LayerNorm.
        tokens: "masked" counts hidden tokens alone, "all" counts every token.
        temperature: of infonce.
        negatives: of infonce: the other tokens of the image, or of the batch of all ranks.

    Example::

        loss = MatchTokens(kind="cosine")(prediction, target, mask)  # [2, 196, 384] both, [2, 196]
    """

    outputs = ("loss",)

    def __init__(
        self,
        *,
        kind: Literal["infonce", "cosine", "smooth_l1", "mse"],
        tokens: Literal["masked", "all"] = "masked",
        temperature: float = 0.2,
        negatives: Literal["image", "batch"] = "image",
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"match_tokens needs a temperature above 0, not {temperature}")
        self.kind, self.tokens = kind, tokens
        self.temperature, self.negatives = temperature, negatives

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """prediction, target: [B, N, D]; mask: [B, N], 1 where hidden. Returns a float32
        scalar."""
        _same_shape(prediction, target)
        with without_autocast(prediction):
            found, wanted = prediction.float(), target.detach().float()
            if self.kind == "infonce":
                losses = self._contrast(F.normalize(found, dim=-1), F.normalize(wanted, dim=-1))
            else:
                losses = _distance(found, wanted, self.kind)  # [B, N]
        if self.tokens == "all":
            return losses.mean()
        return (losses * mask).sum() / mask.sum()

    def _contrast(self, found: Tensor, wanted: Tensor) -> Tensor:
        """-log of the share of the right token among the others, [B, N]."""
        batch, count = found.shape[:2]
        own = torch.arange(count, device=found.device).expand(batch, -1)  # [B, N]
        if self.negatives == "image":
            cosines = found @ wanted.transpose(1, 2)  # [B, N, N]
        else:
            cosines = found @ gather_batch(wanted).flatten(0, 1).T  # [B, N, G * N]
            rows = torch.arange(batch, device=found.device)[:, None]  # [B, 1]
            own = own + (rows + global_offset(batch)) * count
        scores = (cosines / self.temperature).transpose(1, 2)  # [B, classes, N]
        return F.cross_entropy(scores, own, reduction="none")


@register("match_vectors")
class MatchVectors(nn.Module):
    """The vector of each picture against the teacher's.

    Args:
        kind: infonce, against the teacher's vectors of the other pictures of all ranks | cosine,
            2 - 2 cos | smooth_l1 | mse, both against the teacher's vector with LayerNorm.
        temperature: of infonce.

    Example::

        loss = MatchVectors(kind="infonce")(torch.randn(8, 384), torch.randn(8, 384))
    """

    outputs = ("loss",)

    def __init__(
        self,
        *,
        kind: Literal["infonce", "cosine", "smooth_l1", "mse"],
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.contrast = InfoNce(temperature=temperature) if kind == "infonce" else None

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """prediction, target: [B, D]. Returns a float32 scalar."""
        _same_shape(prediction, target)
        if self.contrast is not None:
            return self.contrast(prediction, target.detach())
        with without_autocast(prediction):
            return _distance(prediction.float(), target.detach().float(), self.kind).mean()


@register("align_features")
class AlignFeatures(nn.Module):
    """The mean difference of features behind a block of the student and one of the teacher, CLS
    included (DMAE, arXiv 2208.12256, 3.2).

    Args:
        error: l1 | mse.
        norm: l2 makes each token's features of length 1 first, of both | none.

    Example::

        AlignFeatures()(torch.randn(2, 50, 1024), torch.randn(2, 50, 1024))  # about 0.035
    """

    outputs = ("loss",)

    def __init__(
        self, *, error: Literal["l1", "mse"] = "l1", norm: Literal["l2", "none"] = "l2"
    ) -> None:
        super().__init__()
        self.error, self.norm = error, norm

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """prediction, target: [B, 1 + K, D]. Returns a float32 scalar."""
        _same_shape(prediction, target)
        found, wanted = prediction.float(), target.detach().float()
        if self.norm == "l2":
            found, wanted = F.normalize(found, dim=-1), F.normalize(wanted, dim=-1)
        return (F.l1_loss if self.error == "l1" else F.mse_loss)(found, wanted)
