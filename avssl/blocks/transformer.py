"""Pre-norm transformer blocks (ViT, arXiv 2010.11929), with the parameter names of timm.

Letters: B batch, N tokens, D width, H heads, Dh width of a head.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from avssl.blocks.init import init_layers
from avssl.ops.attention import attention
from avssl.ops.random import batch_uniform
from avssl.registry import register


class Attention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # each [B, N, H, Dh]
        return self.proj(attention(q, k, v).flatten(2))  # [B, N, D]


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # [B, N, D]


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)); each branch is dropped per sample."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float,
        norm_eps: float,
        qkv_bias: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attn(self.norm1(x)))  # [B, N, D]
        return x + self._drop(self.mlp(self.norm2(x)))  # [B, N, D]

    def _drop(self, branch: Tensor) -> Tensor:
        if self.drop_path == 0 or not self.training:
            return branch
        noise = batch_uniform(branch.shape[0], 1, device=branch.device)  # [B, 1]
        keep = (noise >= self.drop_path).to(branch.dtype) / (1 - self.drop_path)
        return branch * keep.unsqueeze(-1)  # [B, N, D]


@register("transformer")
class Transformer(nn.Module):
    """A stack of pre-norm ViT blocks, without a norm behind the last.

    ``blocks`` is a plain list, so that each block can be sharded or compiled on its own; set
    ``checkpoint_activations`` to compute each block again in the backward pass instead of
    keeping its activations.

    Args:
        width: D.
        depth: number of blocks.
        heads: H, a divisor of D.
        mlp_ratio: hidden width of the MLP over D.
        norm_eps: epsilon of the LayerNorms.
        qkv_bias: query, key and value have a bias.
        qkv_init: how Xavier's rule takes their weights: joint, as one matrix (MAE) | split, each
            (MoCo v3, arXiv 2104.02057).
        drop_path: rate of dropped branches in the last block, rising linearly from 0 in the first.

    Example::

        encoder = Transformer(width=768, depth=12, heads=12)
        encoder.init_weights()
        encoder(torch.zeros(2, 103, 768)).shape  # [2, 103, 768]
    """

    outputs: tuple[str, ...] = ("tokens",)

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        qkv_bias: bool = True,
        qkv_init: Literal["joint", "split"] = "joint",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 0 or heads < 1:
            raise ValueError(f"transformer: depth {depth} is below 0 or heads {heads} below 1")
        if width % heads:
            raise ValueError(f"transformer: width {width} is no multiple of heads {heads}")
        if not 0 <= drop_path < 1:
            raise ValueError(f"transformer: drop_path {drop_path} is not in [0, 1)")
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                mlp_ratio=mlp_ratio,
                norm_eps=norm_eps,
                qkv_bias=qkv_bias,
                drop_path=drop_path * i / max(depth - 1, 1),
            )
            for i in range(depth)
        )
        self.qkv_init = qkv_init
        self.checkpoint_activations = False

    def init_weights(self) -> None:
        init_layers(self)
        if self.qkv_init == "split":
            for block in self.blocks:
                for part in block.attn.qkv.weight.chunk(3):  # type: ignore[union-attr, operator]
                    nn.init.xavier_uniform_(part)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, N, D]. Returns [B, N, D]."""
        return self._run(x, 0, len(self.blocks))

    def _run(self, x: Tensor, first: int, behind: int) -> Tensor:
        """Through some of the blocks."""
        for block in self.blocks[first:behind]:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)  # [B, N, D]
            else:
                x = block(x)  # [B, N, D]
        return x


@register("tapped_transformer")
class TappedTransformer(Transformer):
    """``transformer`` that shows the tokens behind one of its blocks, too. Where only these are
    read, as of a teacher, no later block runs.

    Args:
        width, depth, heads, mlp_ratio, norm_eps, qkv_bias, qkv_init, drop_path: of ``transformer``.
        tap: number of the block, from 1; None: the last.

    Example::

        encoder = TappedTransformer(width=768, depth=12, heads=12, tap=9)
        encoder.init_weights()
        encoder(("tap",), torch.zeros(2, 50, 768))["tap"].shape  # [2, 50, 768]
    """

    outputs = ("tokens", "tap")

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        qkv_bias: bool = True,
        qkv_init: Literal["joint", "split"] = "joint",
        drop_path: float = 0.0,
        tap: int | None = None,
    ) -> None:
        super().__init__(
            width=width,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            norm_eps=norm_eps,
            qkv_bias=qkv_bias,
            qkv_init=qkv_init,
            drop_path=drop_path,
        )
        if tap is not None and not 1 <= tap <= depth:
            raise ValueError(f"tapped_transformer: tap {tap} is none of the blocks 1 to {depth}")
        self.tap = depth if tap is None else tap

    def forward(self, read: tuple[str, ...], /, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """x: [B, N, D]. Returns tokens and tap, [B, N, D] each, without what is not in `read`."""
        found = {"tap": self._run(x, 0, self.tap)}
        if "tokens" in read:
            found["tokens"] = self._run(found["tap"], self.tap, len(self.blocks))
        return {port: found[port] for port in read}
