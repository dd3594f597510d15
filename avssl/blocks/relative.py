"""Pre-norm transformer blocks with relative positions (Transformer-XL, arXiv 1901.02860, 3.3), as
RAVEn has them (arXiv 2212.06246): LayerScale, and BatchNorm in front of the feed-forward layers.

Letters: B batch, T frames, V real frames, D width, H heads, Dh width of a head, R = 2 T - 1
distances, from T - 1 (a key long before its query) down to 1 - T.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from avssl.blocks.batch_norm import BatchNorm
from avssl.blocks.init import init_as_torch
from avssl.ops.attention import attention
from avssl.ops.frames import put_frames, take_frames, valid_frames
from avssl.ops.random import batch_dropout, batch_uniform
from avssl.registry import register


def distance_codes(time: int, width: int, device: torch.device) -> Tensor:
    """Codes of the distances T - 1 to 1 - T: sines in even channels, cosines in odd ones.

    Returns:
        float32 [R, D].
    """
    distance = torch.arange(time - 1, -time, -1, device=device, dtype=torch.float32)  # [R]
    steps = torch.arange(0, width, 2, device=device, dtype=torch.float32)  # [D / 2]
    angle = distance[:, None] * torch.exp(steps * (-math.log(10000.0) / width))  # [R, D / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # [R, D]


def by_key(scores: Tensor) -> Tensor:
    """From scores by distance, [B, H, T, R], to scores by key, [B, H, T, T]: i, j is i - j apart.

    Entry (i, j) stands at T - 1 - i + j of row i. Rows read with a length of R - 1 begin there.
    """
    time = scores.shape[2]
    if time == 1:
        return scores
    rows = 2 * time - 2
    flat = scores.flatten(2)[..., time - 1 : time - 1 + time * rows]
    return flat.unflatten(2, (time, rows))[..., :time]  # [B, H, T, T]


class RelativeAttention(nn.Module):
    """Multi-head self-attention whose scores also depend on how far key and query are apart."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.position = nn.Linear(width, width, bias=False)
        self.u = nn.Parameter(torch.empty(heads, width // heads))  # of all queries, for content
        self.v = nn.Parameter(torch.empty(heads, width // heads))  # and for distance
        self.proj = nn.Linear(width, width)

    def init_weights(self) -> None:
        nn.init.xavier_uniform_(self.u)
        nn.init.xavier_uniform_(self.v)

    def forward(self, x: Tensor, codes: Tensor, frames: Tensor | None, valid: Tensor) -> Tensor:
        """x: [V, D]; codes: [R, D]; frames: [V]; valid: bool [B, T]. Returns [V, D]."""
        qkv = put_frames(self.qkv(x), frames, *valid.shape)  # [B, T, 3 D]
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)  # each [B, T, H, Dh]
        codes = codes.to(self.position.weight.dtype)
        distances = self.position(codes).unflatten(-1, (self.heads, -1))  # [R, H, Dh]
        query = (q + self.v.to(q.dtype)) * q.shape[-1] ** -0.5  # [B, T, H, Dh]
        bias = by_key(torch.einsum("bthd,rhd->bhtr", query, distances))  # [B, H, T, T]
        if frames is not None:
            bias = bias.masked_fill(~valid[:, None, None, :], -math.inf)
        dropout = self.dropout if self.training else 0.0
        out = attention(q + self.u.to(q.dtype), k, v, bias=bias, dropout=dropout)  # [B, T, H, Dh]
        return self.proj(take_frames(out.flatten(2), frames))  # [V, D]


class FeedForward(nn.Module):
    """Two linear layers with ReLU and dropout between them."""

    def __init__(self, width: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = dropout

    def forward(self, x: Tensor, frames: Tensor | None, places: int) -> Tensor:
        """x: [V, D]; frames: [V]; places: B * T. Returns [V, D]."""
        rate = self.dropout if self.training else 0.0
        inner = batch_dropout(F.relu(self.fc1(x)), rate, frames=frames, places=places)
        return self.fc2(inner)


class RelativeBlock(nn.Module):
    """x + scale1 * attention(norm1(x)), then x + scale2 * mlp(norm2(x)), on real frames.

    Set ``checkpoint_activations`` to compute both branches again in the backward pass. The norm in
    front of the second stays outside: its running statistics must see each batch once.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int,
        norm: str,
        norm_eps: float,
        layer_scale: float,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = RelativeAttention(width, heads, dropout=attention_dropout)
        self.norm2 = BatchNorm(width) if norm == "batch" else nn.LayerNorm(width, eps=norm_eps)
        self.mlp = FeedForward(width, hidden, dropout=dropout)
        self.layer_scale, self.dropout, self.drop_path = layer_scale, dropout, drop_path
        if layer_scale:
            self.scale1 = nn.Parameter(torch.empty(width))
            self.scale2 = nn.Parameter(torch.empty(width))
        self.checkpoint_activations = False

    def init_weights(self) -> None:
        init_as_torch(self)
        self.attn.init_weights()
        if self.layer_scale:
            nn.init.constant_(self.scale1, self.layer_scale)
            nn.init.constant_(self.scale2, self.layer_scale)

    def forward(
        self, x: Tensor, codes: Tensor, frames: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """x: [B, T, D]; codes: [R, D]; frames: int64 [V]; valid: bool [B, T] of ``valid_frames``.
        Returns [B, T, D], zeros in padding."""
        batch, time = x.shape[:2]
        if valid is None:
            valid = valid_frames(frames, batch, time, device=x.device)
        packed = take_frames(x, frames)  # [V, D]
        kept = [self._kept(packed, frames, batch, time) for _ in range(2)]
        packed = packed + kept[0] * self._run(self._attend, packed, codes, frames, valid)
        packed = packed + kept[1] * self._run(self._feed, self.norm2(packed), frames, valid)
        return put_frames(packed, frames, batch, time)

    def _attend(self, x: Tensor, codes: Tensor, frames: Tensor | None, valid: Tensor) -> Tensor:
        branch = self.attn(self.norm1(x), codes, frames, valid)  # [V, D]
        branch = self.scale1 * branch if self.layer_scale else branch
        return self._dropped(branch, frames, valid)

    def _feed(self, x: Tensor, frames: Tensor | None, valid: Tensor) -> Tensor:
        branch = self.mlp(x, frames, valid.numel())  # [V, D]
        branch = self.scale2 * branch if self.layer_scale else branch
        return self._dropped(branch, frames, valid)

    def _dropped(self, branch: Tensor, frames: Tensor | None, valid: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        return batch_dropout(branch, rate, frames=frames, places=valid.numel())

    def _run(self, branch: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(branch, *inputs, use_reentrant=False)
        return branch(*inputs)

    def _kept(self, packed: Tensor, frames: Tensor | None, batch: int, time: int) -> Tensor | float:
        """What a branch is multiplied by: 0 for dropped clips, 1 / (1 - rate) for the others."""
        if self.drop_path == 0 or not self.training:
            return 1.0
        noise = batch_uniform(batch, 1, device=packed.device)  # [B, 1]
        keep = (noise >= self.drop_path).to(packed.dtype) / (1 - self.drop_path)
        return take_frames(keep.expand(batch, time), frames).unsqueeze(-1)  # [V, 1]


@register("relative_transformer")
class RelativeTransformer(nn.Module):
    """A stack of blocks with relative positions, without a norm behind the last.

    The input is scaled by sqrt(D); it and the codes of the distances get dropout. Linear layers and
    norms run on real frames alone; attention is padded, and padding hidden from it. With
    ``norm="batch"`` the frames of a batch share statistics in training.

    Args:
        width: D, even.
        depth: number of blocks.
        heads: H, a divisor of D.
        hidden: width between the two feed-forward layers.
        norm: in front of the feed-forward layers, batch | layer.
        norm_eps: epsilon of the LayerNorms.
        layer_scale: initial factors of the branches, one per channel; 0: no such factors.
        dropout: of the input, the codes, both branches and between the feed-forward layers.
        attention_dropout: of the attention weights.
        drop_path: rate of dropped branches, the same in all blocks.

    Example::

        encoder = RelativeTransformer(width=512, depth=12, heads=8, hidden=2048)
        encoder.init_weights()
        encoder(torch.zeros(2, 50, 512)).shape  # [2, 50, 512]
    """

    outputs = ("tokens",)

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        norm: Literal["batch", "layer"] = "batch",
        norm_eps: float = 1e-12,
        layer_scale: float = 0.1,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 0 or heads < 1 or width % heads or width % 2:
            raise ValueError(
                f"relative_transformer needs an even width that heads divide, and a depth of 0 or "
                f"more: width {width}, heads {heads}, depth {depth}"
            )
        rates = {"dropout": dropout, "attention_dropout": attention_dropout, "drop_path": drop_path}
        if layer_scale < 0:
            raise ValueError(f"relative_transformer: layer_scale {layer_scale} is below 0")
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"relative_transformer: {name} {rate} is not in [0, 1)")
        self.blocks = nn.ModuleList(
            RelativeBlock(
                width,
                heads,
                hidden=hidden,
                norm=norm,
                norm_eps=norm_eps,
                layer_scale=layer_scale,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path,
            )
            for _ in range(depth)
        )
        self.dropout = dropout

    def init_weights(self) -> None:
        for block in self.blocks:
            assert isinstance(block, RelativeBlock)
            block.init_weights()

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """x: [B, T, D]; frames: int64 [V]. Returns [B, T, D], zeros in padding."""
        batch, time, width = x.shape
        valid = valid_frames(frames, batch, time, device=x.device)  # [B, T]
        codes = distance_codes(time, width, x.device)  # [R, D]
        x = batch_dropout(x * math.sqrt(width), self.dropout if self.training else 0.0)  # [B, T, D]
        # all clips share the codes: the same on every rank
        codes = F.dropout(codes, self.dropout, self.training)  # [R, D]
        for block in self.blocks:
            x = block(x, codes, frames, valid)  # [B, T, D]
        return x
