"""Features of many windows at every layer, and how tokens lie in time.

Letters: W windows, T steps in time, N tokens, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avssl.blocks.stems import PatchEmbed2d, PatchEmbed3d, SwapAxes
from avssl.data.config import FbankConfig, FramesConfig
from avssl.encoders.encoder import Encoder, Pool
from avssl.errors import UserError

GROUP = 32  # windows encoded at a time


@dataclass(frozen=True)
class TimeGrid:
    """How a tower's tokens lie in time.

    steps: in a window. length: filterbank rows or pictures from one to the next. patch: those that
    one covers, more than `length` where patches overlap. last: whether tokens are ordered by time
    within bins, not by bins within time.
    """

    steps: int
    length: int
    patch: int
    last: bool

    def held(self, rows: int) -> int:
        """Steps that these rows or pictures hold whole; at least one."""
        return max(1, 1 + (rows - self.patch) // self.length)

    def mean(self, tokens: Tensor) -> Tensor:
        """[..., N, D] -> [..., T, D]: the mean over each step in time."""
        if self.last:
            return tokens.unflatten(-2, (-1, self.steps)).mean(-3)
        return tokens.unflatten(-2, (self.steps, -1)).mean(-2)


def time_grid(tower: nn.Module, recipe: FbankConfig | FramesConfig) -> TimeGrid:
    """The time grid of a tower that reads an input made as `recipe` says.

    Raises UserError when the tower does not cut its input into patches.
    """
    children = list(tower.modules())
    stem = next((item for item in children if isinstance(item, (PatchEmbed2d, PatchEmbed3d))), None)
    if stem is None:
        raise UserError("a tower does not begin with patches, so that its steps in time are open")
    last = any(isinstance(item, SwapAxes) for item in children)
    axis = 1 if last else 0
    patch, stride = stem.proj.kernel_size[axis], stem.proj.stride[axis]
    return TimeGrid((recipe.frames - patch) // stride + 1, stride, patch, last)


class LayeredEncoder(nn.Module):
    """An encoder that gives all its layers: embedded patches, every block, and its output where
    that is not the last block's.

    It computes where the encoder's weights are, brings inputs there, and leaves features there.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Raises UserError when the encoder has no transformer blocks."""
        super().__init__()
        self.encoder = encoder
        zeros = {
            name: torch.zeros(1, *item.shape, device=encoder.device)
            for name, item in encoder.fixed_inputs.items()
        }
        with torch.no_grad():
            last = encoder.encode(zeros, layer=encoder.depth)
            self.apart = not torch.equal(last, encoder.encode(zeros))

    def forward(self, inputs: Mapping[str, Tensor], *, pool: Pool) -> Tensor:
        """Features of windows, GROUP at a time: [L, W, D], with pool="none" [L, W, N, D].

        Raises UserError when an input is missing.
        """
        encoder = self.encoder
        layers = list(range(encoder.depth + 1))
        found = []
        for first in range(0, len(next(iter(inputs.values()))), GROUP):
            part = {name: x[first : first + GROUP].to(encoder.device) for name, x in inputs.items()}
            states = encoder.encode(part, layer=layers, pool=pool)
            if self.apart:
                states = torch.cat([states, encoder.encode(part, pool=pool)[None]])
            found.append(states)
        return torch.cat(found, dim=1)

    def in_time(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Of each clip's windows [W, ...], the mean over each step in time: [L, W, T, D].

        For an encoder of one input whose tower begins with patches; raises UserError otherwise.
        """
        ((name, recipe),) = self.encoder.fixed_inputs.items()
        tokens = self({name: torch.cat(list(clips))}, pool="none")  # [L, W', N, D]
        states = time_grid(self.encoder.tower, recipe).mean(tokens)  # [L, W', T, D]
        return list(states.split([len(clip) for clip in clips], dim=1))
