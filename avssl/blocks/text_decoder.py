"""The Transformer decoder of speech recognition (arXiv 1706.03762): the next unit of a text, from
those before it and the frames. Pre-norm, fixed sines for positions, as RAVEn's (arXiv 2212.06246).

Letters: B clips, T frames, V real frames, W width of the frames, D width, H heads, Dh width of a
head, N texts, L length of a text with its start, U units.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from avssl.blocks.positions import sinusoid_table
from avssl.ops.attention import attention
from avssl.ops.frames import valid_frames
from avssl.ops.random import batch_dropout
from avssl.registry import register

IGNORED = -1  # behind the end of a shorter text
_EPS = 1e-12  # of the LayerNorms, as in RAVEn's encoders
Past = tuple[Tensor, Tensor]  # keys and values of earlier places of texts: [N, L, H, Dh] each
Table = tuple[Tensor, Tensor]  # of texts by clip, see `_table`


class DecoderBlock(nn.Module):
    """x + self-attention, x + attention to frames, x + feed-forward, each behind a LayerNorm."""

    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.cross_q = nn.Linear(width, width)
        self.cross_kv = nn.Linear(width, 2 * width)
        self.cross_proj = nn.Linear(width, width)
        self.norm3 = nn.LayerNorm(width, eps=_EPS)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def keys(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the frames [B, T, D]: two of [B, T, H, Dh]."""
        k, v = self.cross_kv(memory).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return k, v

    def forward(
        self, x: Tensor, memory: Tensor, *, causal: Tensor, hidden: Tensor | None
    ) -> Tensor:
        """x: [N, L, D]. memory: frames [N, T, D], whose keys and values are made here, where FSDP2
        has the weights whole. The others hold 0, and -inf where a unit must not look: causal
        [L, L], hidden [N, 1, 1, T]. Returns [N, L, D]."""
        q, own_k, own_v = self._own(x)
        k, v = self.keys(memory)
        return self._rest(x, attention(q, own_k, own_v, bias=causal), k, v, hidden)

    def step(
        self,
        x: Tensor,
        past: Past | None,
        k: Tensor,
        v: Tensor,
        *,
        hidden: Tensor | None,
        table: Table | None,
    ) -> tuple[Tensor, Past]:
        """The next place of texts, x [N, 1, D], and `past` with its own keys and values added.
        k, v: [B, T, H, Dh]."""
        q, *own = self._own(x)
        if past is not None:
            own = [torch.cat(pair, dim=1) for pair in zip(past, own, strict=True)]
        return self._rest(x, attention(q, *own), k, v, hidden, table), (own[0], own[1])

    def _own(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value of each place, [N, L, H, Dh]."""
        return self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)

    def _rest(
        self,
        x: Tensor,
        before: Tensor,
        k: Tensor,
        v: Tensor,
        hidden: Tensor | None,
        table: Table | None = None,
    ) -> Tensor:
        """What follows the attention to earlier places, `before` [N, L, H, Dh]."""
        x = x + self._drop(self.proj(before.flatten(2)))  # [N, L, D]
        q = self.cross_q(self.norm2(x)).unflatten(-1, (self.heads, -1))  # [N, L, H, Dh]
        if table is not None:  # the keys of a clip are not copied for each of its texts
            q = q.squeeze(1)[table[0]]  # [B, M, H, Dh]
        seen = attention(q, k, v, bias=hidden)
        if table is not None:
            seen = seen.flatten(0, 1)[table[1]].unsqueeze(1)  # [N, 1, H, Dh]
        x = x + self._drop(self.cross_proj(seen.flatten(2)))
        inner = self._drop(F.relu(self.fc1(self.norm3(x))))
        return x + self._drop(self.fc2(inner))  # [N, L, D]

    def _drop(self, x: Tensor) -> Tensor:
        return batch_dropout(x, self.dropout if self.training else 0.0)


@register("text_decoder")
class TextDecoder(nn.Module):
    """Predicts each unit of a text from those before it and the frames of the clip.

    The last unit begins a text and ends it. ``blocks`` is a plain list, and
    ``checkpoint_activations`` computes each block again in the backward pass.

    Args:
        memory: W, width of the frames; they are brought to `width` where it is another.
        width: D. depth: number of blocks. heads: H, a divisor of D. hidden: of the feed-forward.
        units: U, blank and end counted.
        dropout: of the embedded units and of each branch.

    Example::

        decoder = TextDecoder(memory=512, width=256, depth=6, heads=4, hidden=2048, units=1049)
        decoder.init_weights()
        text = torch.tensor([[5, 7, -1], [9, 9, 3]])
        decoder(torch.randn(2, 75, 512), text).shape  # [2, 4, 1049]
    """

    outputs = ("logits",)

    def __init__(
        self,
        *,
        memory: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        units: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"text_decoder: width {width} is no multiple of 2 x heads ({heads})")
        if units < 3:
            raise ValueError(f"text_decoder: {units} units; blank, end and one more are needed")
        if not 0 <= dropout < 1:
            raise ValueError(f"text_decoder: dropout {dropout} is not in [0, 1)")
        self.end, self.dropout = units - 1, dropout
        self.embed = nn.Embedding(units, width)
        self.bring = nn.Linear(memory, width) if memory != width else nn.Identity()
        self.blocks = nn.ModuleList(
            DecoderBlock(width, heads, hidden, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.out = nn.Linear(width, units)
        self.checkpoint_activations = False

    def init_weights(self) -> None:
        """Xavier uniform matrices, biases 0, embeddings normal with variance 1 / D."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LayerNorm):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.embed.weight, std=self.embed.weight.shape[1] ** -0.5)

    def forward(self, memory: Tensor, text: Tensor, frames: Tensor | None = None) -> Tensor:
        """Score each unit of known texts.

        Args:
            memory: [B, T, W].
            text: int64 [B, L - 1], -1 behind the end of a text.
            frames: int64 [V], the real ones of [B * T]; None: all.

        Returns:
            [B, L, U]: row i is about unit i of the text, row L - 1 about the end of the longest.
        """
        start = text.new_full((text.shape[0], 1), self.end)  # [B, 1]
        prefixes = torch.cat([start, text.where(text != IGNORED, self.end)], dim=1)  # [B, L]
        hidden = None
        if frames is not None:
            hidden = hidden_frames(valid_frames(frames, *memory.shape[:2]), memory)
        x, length = self._embedded(prefixes, 0), prefixes.shape[1]  # [B, L, D]
        causal = x.new_full((length, length), -math.inf).triu(1)  # [L, L]
        memory = self.bring(memory)  # [B, T, D]
        for block in self.blocks:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, memory, causal=causal, hidden=hidden, use_reentrant=False)
            else:
                x = block(x, memory, causal=causal, hidden=hidden)  # [B, L, D]
        return self.out(self.norm(x))  # [B, L, U]

    def keys(self, memory: Tensor) -> list[Past]:
        """Keys and values of the frames [B, T, W] for each block: two of [B, T, H, Dh]."""
        x = self.bring(memory)  # [B, T, D]
        return [block.keys(x) for block in self.blocks]  # type: ignore[operator]

    def step(
        self,
        units: Tensor,
        past: Sequence[Past | None],
        keys: Sequence[Past],
        hidden: Tensor | None = None,
        clips: Tensor | None = None,
    ) -> tuple[Tensor, list[Past]]:
        """Logits of the unit behind one more place of texts.

        Args:
            units: int64 [N], at that place; the first is the start.
            past: of each block, what the step before gave; None at the first place.
            keys: of the frames of each clip, as `keys` gives them, [B, T, H, Dh].
            hidden: [B, 1, 1, T] of `hidden_frames`; None: all frames are real.
            clips: int64 [N], of each text; None: text i is of clip i.

        Returns:
            [N, U], and `past` for the next step.
        """
        place = 0 if past[0] is None else past[0][0].shape[1]
        x = self._embedded(units[:, None], place)  # [N, 1, D]
        table = None if clips is None else _table(clips, keys[0][0].shape[0])
        grown: list[Past] = []
        for block, before, (k, v) in zip(self.blocks, past, keys, strict=True):
            x, own = block.step(x, before, k, v, hidden=hidden, table=table)  # type: ignore[operator]
            grown.append(own)
        return self.out(self.norm(x[:, 0])), grown  # [N, U]

    def _embedded(self, prefixes: Tensor, place: int) -> Tensor:
        """Units [N, L], the first of which is at `place` of its text, as [N, L, D]."""
        width = self.embed.weight.shape[1]
        codes = sinusoid_table(place + prefixes.shape[1], width)[place:].to(self.embed.weight)
        x = self.embed(prefixes) * math.sqrt(width) + codes  # [N, L, D]
        return batch_dropout(x, self.dropout if self.training else 0.0)


def hidden_frames(valid: Tensor, like: Tensor) -> Tensor:
    """What is added to the scores of frames, bool [N, T]: 0, or -inf where one is no real frame;
    [N, 1, 1, T] of the type of `like`."""
    zeros = torch.zeros(valid.shape, dtype=like.dtype, device=like.device)
    return zeros.masked_fill(~valid, -math.inf)[:, None, None]


def _table(clips: Tensor, batch: int) -> Table:
    """Texts, of the clips int64 [N]: those of each of `batch` clips in a row [B, M], M texts of the
    clip with the most, filled up with text 0; and where in it each stands, int64 [N] of B * M."""
    counts = clips.bincount(minlength=batch)  # [B]
    order = clips.argsort(stable=True)  # [N]
    first = (counts.cumsum(0) - counts)[clips[order]]  # [N]
    places = torch.arange(len(clips), device=clips.device)  # [N]
    wide = int(counts.max())
    slots = torch.empty_like(clips).scatter_(0, order, clips[order] * wide + places - first)  # [N]
    texts = clips.new_zeros(batch * wide).scatter_(0, slots, places)  # [B * M]
    return texts.view(batch, wide), slots
