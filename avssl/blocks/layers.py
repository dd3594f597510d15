"""Single layers: linear, LayerNorm, and the head that predicts the values of patches.

Letters: B batch, N tokens, D width, P values of a patch.
"""

import math
from typing import Literal

from torch import Tensor, nn

from avssl.blocks.init import check_widths, init_as_torch, init_layers
from avssl.registry import register


@register("linear")
class Linear(nn.Module):
    """A linear layer over the last axis.

    Args:
        width: of the input. out: of the output. bias: whether it has one.
        init: initial weights, xavier, as MAE has them | torch, uniform within 1 / sqrt(width).

    Example::

        layer = Linear(width=768, out=512)
        layer.init_weights()
        layer(torch.zeros(2, 103, 768)).shape  # [2, 103, 512]
    """

    outputs = ("out",)

    def __init__(
        self,
        *,
        width: int,
        out: int,
        bias: bool = True,
        init: Literal["xavier", "torch"] = "xavier",
    ) -> None:
        super().__init__()
        check_widths("linear", width=width, out=out)
        self.proj = nn.Linear(width, out, bias=bias)
        self.init = init

    def init_weights(self) -> None:
        if self.init == "torch":
            init_as_torch(self)
        else:
            init_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., width]. Returns [..., out]."""
        return self.proj(x)


@register("layer_norm")
class LayerNorm(nn.Module):
    """LayerNorm with weight and bias over the last axis.

    Args:
        width: D. eps: added to the variance.

    Example::

        norm = LayerNorm(width=512)
        norm.init_weights()
        norm(torch.zeros(2, 513, 512)).shape  # [2, 513, 512]
    """

    outputs = ("out",)

    def __init__(self, *, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)

    def init_weights(self) -> None:
        init_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., D]. Returns the same shape."""
        return self.norm(x)


@register("final_norm")
class FinalNorm(nn.Module):
    """The LayerNorm behind the last block, or nothing where a model was fine-tuned without it.

    Args:
        width: D.
        eps: of the LayerNorm.
        kind: layer | none.

    Example::

        norm = FinalNorm(width=768)
        norm.init_weights()
        norm(torch.zeros(2, 197, 768)).shape  # [2, 197, 768]
    """

    outputs = ("out",)

    def __init__(
        self, *, width: int, eps: float = 1e-6, kind: Literal["layer", "none"] = "layer"
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps) if kind == "layer" else nn.Identity()

    def init_weights(self) -> None:
        init_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., D]. Returns the same shape."""
        return self.norm(x)


@register("patch_head")
class PatchHead(nn.Module):
    """Predicts the values of each patch from its token, in the order of ``patchify``.

    Args:
        width: D.
        patch: lengths of a patch, for example [16, 16] or [2, 16, 16].
        channels: channels of the input.

    Example::

        head = PatchHead(width=512, patch=[2, 16, 16], channels=3)
        head.init_weights()
        head(torch.zeros(2, 784, 512)).shape  # [2, 784, 1536]
    """

    outputs = ("patches",)

    def __init__(self, *, width: int, patch: list[int], channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, math.prod(patch) * channels)

    def init_weights(self) -> None:
        init_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, N, D]. Returns [B, N, P]."""
        return self.proj(x)
