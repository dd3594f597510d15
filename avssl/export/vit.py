"""Towers that are a plain ViT: what other libraries need to know of them, read off the module.

Letters: B batch, N patches, P tokens in front, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from avssl.blocks.layers import FinalNorm, LayerNorm
from avssl.blocks.positions import PositionTable, SinCos2d, SinCos3d, Sinusoid3d
from avssl.blocks.stems import PatchEmbed2d, PatchEmbed3d, SwapAxes
from avssl.blocks.tokens import ClsToken
from avssl.blocks.transformer import Block, TappedTransformer, Transformer
from avssl.errors import UserError
from avssl.export.source import Source
from avssl.graph.graph import SubGraph
from avssl.ops.patches import patch_grid

POSITIONS = (SinCos2d, SinCos3d, Sinusoid3d, PositionTable)  # each adds a table to its tokens


@dataclass(frozen=True)
class PlainViT:
    """Patches, tokens in front, positions for both, pre-norm blocks, and a norm where there is one.

    Attributes:
        size: lengths of the input behind batch and channels: [T, F] or [T, H, W].
        patch: of a patch, along the axes that are cut. stride: from one patch to the next.
        turned: a spectrogram's axes are swapped before it is cut: [F, T].
        channels: of the input.
        weight: of the convolution that embeds patches: [D, channels, *patch]. bias: [D].
        front: [1, P, D], CLS and other tokens, with their positions added; P may be 0.
        positions: [1, N, D], added to the patches.
        blocks: of the transformer.
        norm: behind the last block, if there is one.
    """

    size: tuple[int, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...]
    turned: bool
    channels: int
    weight: Tensor
    bias: Tensor
    front: Tensor
    positions: Tensor
    blocks: tuple[Block, ...]
    norm: nn.LayerNorm | None

    @property
    def picture(self) -> PlainViT | None:
        """The same over a single picture, if a clip of it is one picture; None for longer clips."""
        if len(self.size) == 2:
            return self
        if self.size[0] != 1:
            return None
        size, patch, stride = self.size[1:], self.patch[1:], self.stride[1:]
        return replace(self, size=size, patch=patch, stride=stride, weight=self.weight.squeeze(2))

    @property
    def side_by_side(self) -> bool:
        """Whether patches do not overlap, axes are as they come, and at most CLS is in front."""
        return self.stride == self.patch and not self.turned and self.front.shape[1] <= 1

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
    return _Reader(module, f"the tower '{tower}'", target).read(
        source.encoder.fixed_inputs[read].shape
    )


def without_model(what: str, target: str, reason: str) -> NoReturn:
    """Raise UserError: a library has no model for this tower."""
    raise UserError(
        f"{what} {reason}, and {target} has no model for that: take --format safetensors or onnx"
    )


class _Reader:
    def __init__(self, tower: SubGraph, what: str, target: str) -> None:
        self.tower, self.what, self.target = tower, what, target

    def read(self, shape: tuple[int, ...]) -> PlainViT:
        chain = self._chain()
        turned = self._take(chain, SwapAxes) is not None
        stem = self._take(chain, PatchEmbed2d, PatchEmbed3d)
        if stem is None:
            self._refuse("begins with no patch embedding")
        table = self._table(chain)
        front = self._take(chain, ClsToken)
        if table is None:
            table = self._table(chain)
        transformer = self._take(chain, Transformer, TappedTransformer)
        norm = self._take(chain, LayerNorm, FinalNorm)
        if chain:
            self._refuse(f"holds a {type(chain[0]).__name__}")
        if table is None or transformer is None or not len(transformer.blocks):
            self._refuse("lacks positions or transformer blocks")
        tokens = torch.zeros_like(table[:, :0]) if front is None else front.cls_token.detach()
        size = shape[:0:-1] if turned else shape[1:]
        conv = stem.proj
        patches = math.prod(patch_grid(size, conv.kernel_size, conv.stride))
        rows = table.shape[1] - patches  # of the tokens in front
        if rows == tokens.shape[1]:
            tokens = tokens + table[:, :rows]  # [1, P, D]
        elif rows != 0:
            self._refuse(f"has {table.shape[1]} positions for {patches} patches")
        inner = None if norm is None else norm.norm
        vit = PlainViT(
            size=shape[1:],
            patch=tuple(conv.kernel_size),
            stride=tuple(conv.stride),
            turned=turned,
            channels=shape[0],
            weight=conv.weight.detach(),
            bias=conv.bias.detach(),
            front=tokens,
            positions=table[:, rows:],
            blocks=tuple(transformer.blocks),
            norm=inner if isinstance(inner, nn.LayerNorm) else None,
        )
        norms = [item for block in vit.blocks for item in (block.norm1, block.norm2)]
        if {item.eps for item in [*norms, *([vit.norm] if vit.norm else [])]} != {vit.eps}:
            self._refuse("has LayerNorms of different eps")
        return vit

    def _chain(self) -> list[nn.Module]:
        """Modules between the input and the output 'tokens', in order."""
        made = {key: call for call in self.tower.calls(("tokens",)) for _, key in call.outputs}
        key = self.tower.results["tokens"]
        chain: list[nn.Module] = []
        while key in made:
            call = made[key]
            chain.append(self.tower.get_submodule(call.module))
            read = dict(call.inputs).get("x")
            if read is None:
                self._refuse(f"calls '{call.module}', which is no step of a ViT")
            key = read
        return chain[::-1]

    def _take(self, chain: list[nn.Module], *kinds: type[nn.Module]) -> Any:
        """The first module, taken off the chain, if it is one of these."""
        return chain.pop(0) if chain and type(chain[0]) in kinds else None

    def _table(self, chain: list[nn.Module]) -> Tensor | None:
        """The positions, if they come next."""
        positions = self._take(chain, *POSITIONS)
        return None if positions is None else positions.table.detach()

    def _refuse(self, reason: str) -> NoReturn:
        without_model(self.what, self.target, reason)


def picture_vit(source: Source, *, target: str) -> PlainViT:
    """The tower of an encoder as a plain ViT over a spectrogram or one picture.

    Arguments and errors as of `plain_vit`; it also raises when the tower reads several pictures.
    """
    vit = plain_vit(source, target=target)
    if not vit.side_by_side:
        reason = f"has {vit.front.shape[1]} tokens in front, or patches that overlap"
        without_model(source.module, target, reason)
    if vit.picture is None:
        reason = f"reads clips of {vit.size[0]} pictures in tubelets of {vit.patch[0]}"
        without_model(source.module, target, reason)
    return vit.picture


def as_picture(inputs: Tensor) -> Tensor:
    """The input of `picture_vit`: [B, 3, 1, H, W] or [B, 1, T, F] -> [B, C, H, W]."""
    return inputs.squeeze(2) if inputs.ndim == 5 else inputs
