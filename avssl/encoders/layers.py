"""What lies inside a tower: its blocks, the tokens before the patches, and what each block gives.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from avssl.errors import UserError


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Blocks of the transformers inside, in the order they run."""
    stacks = [getattr(child, "blocks", None) for child in module.modules()]
    return [block for stack in stacks if isinstance(stack, nn.ModuleList) for block in stack]


def prefix_tokens(tower: nn.Module) -> int:
    """Tokens in front of the patches, such as CLS."""
    tokens = [getattr(child, "cls_token", None) for child in tower.modules()]
    return sum(token.shape[1] for token in tokens if isinstance(token, Tensor))


@contextmanager
def caught_layers(modules: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Of each module, what it computes inside: the input of its first block, then the output of
    each block, [B, N, D]. Only calls of this thread count: others may use the modules meanwhile.

    Raises UserError for a module without blocks.
    """
    caught: list[list[Tensor]] = [[] for _ in modules]
    thread = threading.get_ident()
    handles = []

    def keep(found: list[Tensor], x: Tensor) -> None:
        if threading.get_ident() == thread:
            found.append(x)

    try:
        for module, found in zip(modules, caught, strict=True):
            blocks = blocks_of(module)
            if not blocks:
                raise UserError("a tower without transformer blocks has no layers: leave layer out")
            first = blocks[0].register_forward_pre_hook(
                lambda _, given, found=found: keep(found, given[0])
            )
            handles.append(first)
            handles += [
                block.register_forward_hook(lambda _, given, out, found=found: keep(found, out))
                for block in blocks
            ]
        yield caught
    finally:
        for handle in handles:
            handle.remove()
