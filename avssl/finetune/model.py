"""The classifier: towers of a model, their fusion, and a head over their mean patch tokens.

Patch tokens without CLS, mean, LayerNorm, Linear; with a fusion, the mean of each tower's half of
the fused tokens, side by side (MAViL, AudioMAE).

Letters: B batch, N patches, K kept patches, D width of a tower, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avssl.encoders.roles import Fusion
from avssl.finetune.config import PatchMasks
from avssl.finetune.masks import random_keep, structured_keep
from avssl.graph.graph import Graph

HEAD = "head"
TOKENS, KEEP = "tokens", "keep"  # ports of every tower: its output, and the patches to see


class Head(nn.Module):
    """LayerNorm and a linear layer to the classes."""

    def __init__(self, width: int, classes: int, *, std: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, D]. Returns [B, C]."""
        return self.linear(self.norm(x))


@dataclass(frozen=True)
class TowerCall:
    """How a tower is called.

    Attributes:
        port: where its input goes.
        input: name in the batch.
        prefix: tokens in front of those of the patches.
        grid: patches along the axes of the spectrogram or the pictures, in the tower's order; None
            where they are not known.
        turned: the tower reads the spectrogram as bins x frames.
    """

    port: str
    input: str
    prefix: int
    grid: list[int] | None
    turned: bool


class Classifier(nn.Module):
    """Towers, fusion and head.

    Attributes:
        graph: a module for each, called by name; what the optimizer and checkpoints see.
        towers: how each tower is called.
        fusion: what joins them, None for a single tower and for towers side by side.
    """

    def __init__(
        self, graph: Graph, towers: Mapping[str, TowerCall], fusion: Fusion | None
    ) -> None:
        super().__init__()
        self.graph = graph
        self.towers, self.fusion = dict(towers), fusion

    def forward(
        self, batch: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Logits of a batch.

        Args:
            batch: the inputs, [B, 1, T, F] and [B, 3, T, H, W].
            keep: tower -> patches it sees, int64 [B, K]; all for a tower that is not named.

        Returns:
            float32 [B, C].
        """
        return self.graph.get_submodule(HEAD)(self.features(batch, keep)).float()

    def features(
        self, batch: Mapping[str, Tensor], keep: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """What the head reads, [B, sum of D]; arguments as of `forward`."""
        outputs = {}
        for name, tower in self.towers.items():
            given = {tower.port: batch[tower.input]}
            if keep is not None and name in keep:
                given[KEEP] = keep[name]
            out = self.graph.get_submodule(name)(**given)
            outputs[name] = out if isinstance(out, dict) else {TOKENS: out}
        if self.fusion is None:
            tokens = {name: out[TOKENS] for name, out in outputs.items()}  # [B, prefix + K, D]
        else:
            ports = self.fusion.ports
            join = self.graph.get_submodule(self.fusion.module)
            fused = join(**{port: outputs[name][out] for port, (name, out) in ports.items()})
            tokens = {name: fused[port] for port, (name, _) in ports.items()}
        pooled = [tokens[name][:, tower.prefix :].mean(1) for name, tower in self.towers.items()]
        return torch.cat(pooled, dim=1)  # [B, sum of D]

    def masks(self, batch: int, config: PatchMasks, device: torch.device) -> dict[str, Tensor]:
        """The patches that each tower sees in a step: tower -> int64 [B, K]."""
        found = {}
        for name, tower in self.towers.items():
            if tower.grid is None or not masked(tower.grid, config):
                continue
            if len(tower.grid) == 2:
                shares = (config.time, config.frequency)
                found[name] = structured_keep(
                    batch,
                    tower.grid,
                    shares=shares[::-1] if tower.turned else shares,
                    device=device,
                )
            else:
                patches = math.prod(tower.grid)
                found[name] = random_keep(batch, patches, share=config.video, device=device)
        return found


def masked(grid: Sequence[int], config: PatchMasks) -> bool:
    """Whether a tower with such a grid of patches sees only some of them."""
    if len(grid) == 2:
        return config.time > 0 or config.frequency > 0
    return config.video > 0
