"""Contrast between embeddings of the same clip (InfoNCE, arXiv 1807.03748), and its health.

Letters: B batch of this rank, G global batch, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.ops.gather import gather_batch, global_offset
from avssl.ops.precision import without_autocast
from avssl.registry import register


def _similarity(a: Tensor, b: Tensor, *, gather: bool) -> tuple[Tensor, Tensor]:
    """Cosines of the rows of ``a`` with those of ``b``, and the column of each positive.

    Args:
        a, b: [B, D].
        gather: take the rows of ``b`` from all ranks.

    Returns:
        cosines float32 [B, G] and positives int64 [B].
    """
    with without_autocast(a):  # half precision is too coarse at small temperatures
        a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
        others = gather_batch(b) if gather else b  # [G, D]
        positives = torch.arange(a.shape[0], device=a.device)  # [B]
        if gather and a.device.type != "meta":
            positives = positives + global_offset(a.shape[0])
        return a @ others.T, positives


@register("info_nce")
class InfoNce(nn.Module):
    """-(1/B) sum_i log softmax_k(cos(a_i, b_k) / temperature) at k = i; row i of both is a clip.

    Args:
        temperature: divides the cosines; a small one sharpens.
        two_way: the mean of both directions, a to b and b to a.
        gather: negatives come from all ranks (with gradients), not from this one alone.
        rescale: multiply by twice the temperature, as MoCo v3 (arXiv 2104.02057), so that gradients
            do not depend on it so much.

    Example::

        loss = InfoNce(temperature=0.1, two_way=True)(torch.randn(8, 768), torch.randn(8, 768))
    """

    outputs = ("loss",)
    contrasts_clips = True  # so that a clip alone teaches nothing

    def __init__(
        self,
        *,
        temperature: float,
        two_way: bool = False,
        gather: bool = True,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"info_nce needs a temperature above 0, not {temperature}")
        self.temperature, self.two_way, self.gather = temperature, two_way, gather
        self.factor = 2 * temperature if rescale else 1.0

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b: [B, D]. Returns a float32 scalar."""
        loss = self._one_way(a, b)
        return (loss + self._one_way(b, a)) / 2 if self.two_way else loss

    def _one_way(self, a: Tensor, b: Tensor) -> Tensor:
        cosines, positives = _similarity(a, b, gather=self.gather)  # [B, G], [B]
        return self.factor * F.cross_entropy(cosines / self.temperature, positives)


@register("contrast_health")
class ContrastHealth(nn.Module):
    """Figures beside a contrast, for the log: how hard it is and how well it does. No gradient.

    Args:
        gather: as in the ``info_nce`` that it watches.

    Example::

        ContrastHealth()(torch.eye(8), torch.eye(8))  # accuracy 1, negatives 7
    """

    outputs = ("accuracy", "negatives")

    def __init__(self, *, gather: bool = True) -> None:
        super().__init__()
        self.gather = gather

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """a, b: [B, D].

        Returns:
            accuracy: share of rows of ``a`` whose most similar row of ``b`` is their own clip.
            negatives: clips that each row is contrasted with, its own not counted.
        """
        cosines, positives = _similarity(a.detach(), b.detach(), gather=self.gather)  # [B, G], [B]
        accuracy = (cosines.argmax(dim=1) == positives).float().mean()
        return {"accuracy": accuracy, "negatives": accuracy.new_full((), cosines.shape[1] - 1)}


@register("average")
class Average(nn.Module):
    """The mean of two losses, for example of the same contrast in two modalities.

    Example::

        Average()(audio_loss, video_loss)
    """

    outputs = ("loss",)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b: scalars. Returns a scalar."""
        return (a + b) / 2
