"""Towers that are a plain ViT: what other libraries need to know of them, read off the module.

Letters: B batch, N patches, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from torch import Tensor, nn

from avssl.blocks.layers import LayerNorm
from avssl.blocks.stems import PatchEmbed2d, PatchEmbed3d
from avssl.blocks.tokens import ClsToken
from avssl.blocks.transformer import Block, Transformer
from avssl.errors import UserError
from avssl.export.source import Source
from avssl.graph.graph import Call, SubGraph


@dataclass(frozen=True)
class PlainViT:
    """Patches, fixed positions, CLS, pre-norm blocks, and a norm where there is one.

    Attributes:
        size: lengths of the input behind batch and channels: [T, F] or [T, H, W].
        patch: of a patch, along the same axes.
        channels: of the input.
        weight: of the convolution that embeds patches: [D, channels, *patch]. bias: [D].
        positions: [1, N, D], added to the patches.
        cls: [1, 1, D], the CLS token with its position added, if there is one.
        blocks: of the transformer.
        norm: behind the last block, if there is one.
    """

    size: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int
    weight: Tensor
    bias: Tensor
    positions: Tensor
    cls: Tensor | None
    blocks: tuple[Block, ...]
    norm: nn.LayerNorm | None

    @property
    def picture(self) -> PlainViT | None:
        """The same over a single picture, if a clip of it is one picture; None for longer clips."""
        if len(self.size) == 2:
            return self
        if self.size[0] != 1:
            return None
        return replace(
            self, size=self.size[1:], patch=self.patch[1:], weight=self.weight.squeeze(2)
        )

    @property
    def width(self) -> int:
        """D."""
        return self.weight.shape[0]

    @property
    def heads(self) -> int:
        """Of each block's attention."""
        return self.blocks[0].attn.heads

    @property
    def hidden(self) -> int:
        """Width inside each block's MLP."""
        return self.blocks[0].mlp.fc1.out_features

    @property
    def biased(self) -> bool:
        """Whether query, key and value have a bias."""
        return self.blocks[0].attn.qkv.bias is not None

    @property
    def eps(self) -> float:
        """Of every LayerNorm."""
        return self.blocks[0].norm1.eps


def plain_vit(source: Source, *, target: str) -> PlainViT:
    """The tower of an encoder as a plain ViT.

    target: the library that is written for, for messages.

    Raises UserError when the encoder has several towers, or its tower another structure.
    """
    if len(source.towers) > 1:
        raise UserError(
            f"{source.module} joins {len(source.towers)} towers, which {target} has no model for: "
            f"export {' and '.join(source.towers)} apart, or take --format safetensors or onnx"
        )
    ((tower, read),) = source.towers.items()
    module = source.encoder.towers[tower]
    assert isinstance(module, SubGraph)
    return _Reader(module, f"the tower '{tower}'", target).read(source.shape(read))


class _Reader:
    def __init__(self, tower: SubGraph, what: str, target: str) -> None:
        self.tower, self.what, self.target = tower, what, target

    def read(self, shape: tuple[int, ...]) -> PlainViT:
        chain = self._chain()
        stem = self._take(chain, PatchEmbed2d, PatchEmbed3d)
        if stem is None:
            self._refuse("begins with no patch embedding")
        positions = self._table(chain)
        cls = self._take(chain, ClsToken)
        if positions is None:
            positions = self._table(chain)
        transformer = self._take(chain, Transformer)
        if positions is None or transformer is None:
            self._refuse("is no patch embedding with positions and a transformer behind")
        norm = self._take(chain, LayerNorm)
        if chain:
            self._refuse(f"has a {type(chain[0]).__name__} behind its transformer")
        if not len(transformer.blocks):
            self._refuse("has a transformer without blocks")
        token = None if cls is None else cls.cls_token.detach()
        table = positions.detach()  # [1, N, D] or [1, 1 + N, D]
        patch = stem.proj.kernel_size
        count = math.prod(length // part for length, part in zip(shape[1:], patch, strict=True))
        if table.shape[1] == 1 + count and token is not None:
            token = token + table[:, :1]  # [1, 1, D]
            table = table[:, 1:]  # [1, N, D]
        if table.shape[1] != count:
            self._refuse(f"has {table.shape[1]} positions for {count} patches")
        vit = PlainViT(
            size=shape[1:],
            patch=tuple(patch),
            channels=shape[0],
            weight=stem.proj.weight.detach(),
            bias=stem.proj.bias.detach(),
            positions=table,
            cls=token,
            blocks=tuple(transformer.blocks),
            norm=None if norm is None else norm.norm,
        )
        norms = [item for block in vit.blocks for item in (block.norm1, block.norm2)]
        if {item.eps for item in [*norms, *([vit.norm] if vit.norm else [])]} != {vit.eps}:
            self._refuse("has LayerNorms of different eps")
        return vit

    def _chain(self) -> list[nn.Module]:
        """Modules between the input and the output 'tokens', in order."""
        made = {key: call for call in self.tower.calls for _, key in call.outputs}
        key = dict(self.tower.results)["tokens"]
        chain: list[nn.Module] = []
        while key in made:
            call: Call = made[key]
            chain.append(self.tower.get_submodule(call.module))
            required = [read for port, read in call.inputs if port == "x"]
            if len(required) != 1:
                self._refuse(f"joins several inputs in '{call.name}'")
            key = required[0]
        return chain[::-1]

    def _take(self, chain: list[nn.Module], *kinds: type[nn.Module]) -> Any:
        """The first module, taken off the chain, if it is one of these."""
        return chain.pop(0) if chain and type(chain[0]) in kinds else None

    def _table(self, chain: list[nn.Module]) -> Tensor | None:
        """The positions of a block that only adds a table to the tokens."""
        table = getattr(chain[0], "table", None) if chain else None
        if not isinstance(table, Tensor) or table.ndim != 3:
            return None
        chain.pop(0)
        return table

    def _refuse(self, reason: str) -> NoReturn:
        raise UserError(
            f"{self.what} {reason}, so {self.target} has no model for it: take --format "
            "safetensors or onnx"
        )


def picture_vit(source: Source, *, target: str) -> PlainViT:
    """The tower of an encoder as a plain ViT over a spectrogram or one picture.

    Arguments and errors as of `plain_vit`; it also raises when the tower reads several pictures.
    """
    vit = plain_vit(source, target=target)
    if vit.picture is None:
        frames, tubelet = vit.size[0], vit.patch[0]
        raise UserError(
            f"{source.module} reads clips of {frames} pictures in tubelets of {tubelet}, and "
            f"{target} reads one picture: take --format safetensors or onnx"
        )
    return vit.picture


def as_picture(inputs: Tensor) -> Tensor:
    """The input of `picture_vit`: [B, 3, 1, H, W] or [B, 1, T, F] -> [B, C, H, W]."""
    return inputs.squeeze(2) if inputs.ndim == 5 else inputs
