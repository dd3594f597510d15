"""From the names of another project to ours: what is taken, what is missing, which sizes it shows.

Letters: D width, N patches, P tokens in front.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from avssl.errors import UserError
from avssl.weights.files import Checkpoint

# Heads of ViTs by width, where a layout says nothing else (arXiv 2010.11929, 2106.04560).
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
# Parts of a block with timm's names, which are ours.
BLOCK = tuple(
    f"{layer}.{kind}"
    for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
)


class Conversion:
    """A checkpoint on its way into the modules of an encoder graph.

    Attributes:
        args: of the encoder graph, as far as the file shows them.
        data: input -> changes of its preparation.
        weights: module -> key -> tensor. origin: (module, key) -> names in the file.
        used: names of the file that were looked at. missing: names that are not in it.
    """

    def __init__(
        self, checkpoint: Checkpoint, prefixes: Sequence[str], sizes: Mapping[str, Any]
    ) -> None:
        self.path = checkpoint.path
        self.config, self.preprocessor = checkpoint.config, checkpoint.preprocessor
        self.tensors = strip(checkpoint.tensors, prefixes)
        self.sizes = dict(sizes)
        self.args: dict[str, Any] = {}
        self.data: dict[str, dict[str, Any]] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.origin: dict[tuple[str, str], str] = {}
        self.used: set[str] = set()
        self.missing: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def put(
        self,
        module: str,
        key: str,
        *names: str,
        make: Callable[..., Tensor] | None = None,
    ) -> None:
        """Fill `key` of `module` from tensors of the file: as it is, or as `make` of them gives."""
        self.used.update(names)
        self.origin[module, key] = " and ".join(names)
        absent = [name for name in names if name not in self.tensors]
        self.missing += [name for name in absent if name not in self.missing]
        if not absent:
            found = [self.tensors[name] for name in names]
            found = [item.float() if item.is_floating_point() else item for item in found]
            try:
                tensor = make(*found) if make is not None else found[0]
            except (RuntimeError, IndexError) as error:
                shapes = ", ".join(str(list(item.shape)) for item in found)
                raise UserError(
                    f"{self.path}: {self.origin[module, key]} has the shapes {shapes}, which do "
                    f"not go together ({str(error).splitlines()[0]})"
                ) from None
            self.weights.setdefault(module, {})[key] = tensor

    def layer(self, module: str, key: str, name: str) -> None:
        """Weight and bias of one layer."""
        for kind in ("weight", "bias"):
            self.put(module, f"{key}.{kind}", f"{name}.{kind}")

    def blocks(self, module: str, key: str, name: str, depth: int) -> None:
        """Blocks with timm's names."""
        for number in range(depth):
            for part in BLOCK:
                self.put(module, f"{key}.blocks.{number}.{part}", f"{name}.{number}.{part}")

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """Shape of a tensor that shows sizes.

        Raises UserError when it is not there or has another number of axes.
        """
        if name not in self.tensors:
            raise UserError(f"{self.path} has no '{name}', which tells sizes of its model")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != axes:
            raise UserError(f"{self.path}: '{name}' is {list(shape)}, but must have {axes} axes")
        return shape

    def depth(self, name: str) -> int:
        """Number of blocks: the highest number behind `name`, and one."""
        pattern = re.compile(rf"{re.escape(name)}\.(\d+)\.")
        numbers = [int(found[1]) for key in self.tensors if (found := pattern.match(key))]
        return max(numbers, default=-1) + 1

    def transformer(
        self, width: int, hidden: str, *, heads: Mapping[int, int] | None = None
    ) -> None:
        """Arguments of the blocks: mlp_ratio from the tensor `hidden`, heads from a table."""
        inner = self.shape(hidden, 2)[0]
        ratio = inner / width
        if int(width * ratio) != inner:  # rounding
            ratio = (inner + 0.5) / width
        table = HEADS if heads is None else heads
        self.args |= {"width": width, "mlp_ratio": ratio}
        self.args["heads"] = self.given("heads", self.config.get("num_attention_heads"))
        if self.args["heads"] is None:
            if width not in table:
                raise UserError(
                    f"{self.path}: a file does not show the heads of its attention, and none are "
                    f"known for a width of {width}: give sizes={{'heads': ...}}"
                )
            self.args["heads"] = table[width]

    def number(self, name: str, otherwise: int) -> int:
        """A whole number above 0 of config.json."""
        value = self.config.get(name, otherwise)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"config.json beside {self.path}: {name} is {value!r}, not a number")
        return value

    def given(self, name: str, otherwise: Any) -> Any:
        """A size the user gave, else another value."""
        return self.sizes.get(name, otherwise)

    def side(self, patches: int, what: str) -> int:
        """Rows of a square grid of patches."""
        side = math.isqrt(patches)
        if side * side != patches:
            raise UserError(f"{self.path}: '{what}' has {patches} patches, which make no square")
        return side


def strip(tensors: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Take a layout's prefixes off the names that have them, unless a name would stand twice."""
    found = dict(tensors)
    for prefix in prefixes:
        short = {name: name[len(prefix) :] for name in found if name.startswith(prefix)}
        found = {
            name if short.get(name, name) in found else short[name]: item
            for name, item in found.items()
        }
    return found
