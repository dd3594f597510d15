"""A language model of units: a causal transformer, small enough to be trained beside a recogniser.

Letters: N texts, L length with the start, D width, H heads, U units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.blocks.positions import sinusoid_table
from avssl.ops.attention import attention
from avssl.speech.config import LMSize, TransformerConfig
from avssl.speech.decoding import BLANK

_IGNORED = -100  # targets behind the end of a shorter text
_WARMUP, _DECAY, _CLIP = 0.1, 0.01, 1.0  # [choice] share of the steps, of matrices, largest norm


class _Block(nn.Module):
    """x + causal self-attention, x + feed-forward, each behind a LayerNorm."""

    def __init__(self, size: LMSize) -> None:
        super().__init__()
        self.heads, self.dropout = size.heads, size.dropout
        self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.proj = nn.Linear(size.width, size.width)
        self.fc1 = nn.Linear(size.width, size.hidden)
        self.fc2 = nn.Linear(size.hidden, size.width)

    def forward(self, x: Tensor, later: Tensor) -> Tensor:
        """x: [N, L, D]; later: [L, L], -inf for units that come later."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        before = self.proj(attention(q, k, v, bias=later).flatten(2))  # [N, L, D]
        x = x + F.dropout(before, self.dropout, self.training)
        hidden = self.fc2(F.gelu(self.fc1(self.norm2(x))))  # [N, L, D]
        return x + F.dropout(hidden, self.dropout, self.training)


class TransformerLM(nn.Module):
    """Scores the next unit by all before it; called as `beam_search` calls its `lm`.

    Args:
        units: U, with blank and end.
        size: width, depth and so on.

    Example::

        config = TransformerConfig("transformer", epochs=10)
        lm = train_transformer([[1, 2, 1], [1, 2]], units=4, config=config)
        lm(torch.tensor([[3, 1]]), torch.tensor([0]))     # [1, 4]; 3 is start and end
    """

    def __init__(self, units: int, size: LMSize) -> None:
        super().__init__()
        self.units, self.size = units, size
        self.embed = nn.Embedding(units, size.width)
        nn.init.normal_(self.embed.weight, std=size.width**-0.5)
        self.blocks = nn.ModuleList(_Block(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)
        self.out = nn.Linear(size.width, units)

    def logits(self, prefixes: Tensor) -> Tensor:
        """int64 [N, L] -> [N, L, U], of the unit behind each place; the blank's are -inf."""
        length = prefixes.shape[1]
        codes = sinusoid_table(length, self.size.width).to(self.embed.weight)  # [L, D]
        x = self.embed(prefixes) * math.sqrt(self.size.width) + codes  # [N, L, D]
        later = torch.full((length, length), -torch.inf).triu(1).to(x)  # [L, L]
        for block in self.blocks:
            x = block(x, later)  # [N, L, D]
        scores = self.out(self.norm(x))  # [N, L, U]
        blank = torch.arange(self.units, device=x.device) == BLANK  # [U]
        return scores.masked_fill(blank, -torch.inf)

    @torch.no_grad()
    def forward(self, prefixes: Tensor, clips: Tensor) -> Tensor:
        """Log-probabilities [N, U] after prefixes [N, L], which begin with the start."""
        return self.logits(prefixes)[:, -1].log_softmax(-1)


def train_transformer(
    texts: Sequence[Sequence[int]],
    *,
    units: int,
    config: TransformerConfig,
    seed: int = 0,
) -> TransformerLM:
    """Train on texts, given as units without start and end, by AdamW with a linear warm-up and a
    cosine to 0; the same arguments give the same model.
    """
    if not texts:
        raise ValueError("there is no text to train a language model on.")
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = TransformerLM(units, config.size).train()
        optimizer = torch.optim.AdamW(lm.parameters(), lr=config.lr, weight_decay=_DECAY)
        steps = config.epochs * math.ceil(len(texts) / config.batch)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for _ in range(config.epochs):
            for rows in torch.randperm(len(texts), generator=order).split(config.batch):
                prefixes, targets = _batch([texts[row] for row in rows.tolist()], units - 1)
                logits = lm.logits(prefixes).flatten(0, 1)  # [N * L, U]
                loss = F.cross_entropy(logits, targets.flatten(), ignore_index=_IGNORED)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(lm.parameters(), _CLIP)
                optimizer.step()
                scheduler.step()
    return lm.eval().requires_grad_(False)


def _batch(texts: Sequence[Sequence[int]], end: int) -> tuple[Tensor, Tensor]:
    """What the model reads and what it should say, int64 [N, L] each."""
    longest = max(map(len, texts)) + 1
    given = [[end, *text, *[end] * (longest - 1 - len(text))] for text in texts]
    said = [[*text, end, *[_IGNORED] * (longest - 1 - len(text))] for text in texts]
    return torch.tensor(given), torch.tensor(said)


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate at a step."""
    warm = max(1, round(_WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
