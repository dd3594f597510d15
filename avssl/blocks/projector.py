"""The heads of contrastive learning: linear layers with BatchNorm between them.

Letters: B batch, D width.
"""

from itertools import pairwise

from torch import Tensor, nn

from avssl.blocks.batch_norm import BatchNorm
from avssl.blocks.init import check_widths, init_as_torch
from avssl.registry import register


@register("projector")
class Projector(nn.Module):
    """Linear layers without bias, BatchNorm and ReLU between them, as MoCo v3 has them (arXiv
    2104.02057). One layer is a linear map.

    Args:
        width: of the input. hidden: between layers. out: of the output.
        layers: number of linear layers, 1 or more.
        norm: a BatchNorm without weight and bias behind the last layer.

    Example::

        head = Projector(width=384, hidden=4096, out=256, layers=3)
        head.init_weights()
        head(torch.randn(8, 384)).shape  # [8, 256]
    """

    outputs = ("out",)

    def __init__(
        self, *, width: int, hidden: int = 4096, out: int = 256, layers: int = 3, norm: bool = True
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"projector: {layers} layers; it needs 1 or more")
        check_widths("projector", width=width, hidden=hidden, out=out)
        parts: list[nn.Module] = []
        for size, following in pairwise([width, *[hidden] * (layers - 1), out]):
            if parts:
                parts += [BatchNorm(size), nn.ReLU()]
            parts.append(nn.Linear(size, following, bias=False))
        if norm:
            parts.append(BatchNorm(out, affine=False))
        self.layers = nn.Sequential(*parts)

    def init_weights(self) -> None:
        init_as_torch(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., D]; BatchNorm takes all vectors as one batch. Returns [..., out]."""
        return self.layers(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
