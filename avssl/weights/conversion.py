"""From the names of another project to ours: what is taken, what is missing, which sizes it shows.

Letters: D width, N patches, P tokens in front.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
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


@dataclass(frozen=True)
class Recipe:
    """How a tensor of ours comes about, which is done when its module is asked for.

    names: of the file's tensors. make: of these; None: the only one as it is. shape: of what comes
    out.
    """

    names: tuple[str, ...]
    make: Callable[..., Tensor] | None
    shape: tuple[int, ...]


class Conversion:
    """A checkpoint on its way into the modules of an encoder graph.

    Attributes:
        args: of the encoder graph, as far as the file shows them.
        data: input -> changes of its preparation.
        recipes: module -> key -> how its tensor is made; nothing is made before it is asked for.
        used: names of the file that were looked at. missing: names that are not in it.
        notes: where preparation differs from what lies beside the file.
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
        self.recipes: dict[str, dict[str, Recipe]] = {}
        self.used: set[str] = set()
        self.missing: list[str] = []
        self.notes: list[str] = []

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
        absent = [name for name in names if name not in self.tensors]
        self.missing += [name for name in absent if name not in self.missing]
        if absent:
            return
        for name in names:
            item = self.tensors[name]
            if not plain(item):
                raise UserError(f"{self.path}: {name} is {_kind(item)}, not plain numbers")
        shapes = [self.tensors[name].shape for name in names]
        try:
            like = [torch.empty(shape, device="meta") for shape in shapes]
            shape = (make(*like) if make is not None else like[0]).shape
        except (RuntimeError, IndexError) as error:
            told = ", ".join(str(list(item)) for item in shapes)
            raise UserError(
                f"{self.path}: {' and '.join(names)} has the shapes {told}, which do not go "
                f"together ({str(error).splitlines()[0]})"
            ) from None
        self.recipes.setdefault(module, {})[key] = Recipe(names, make, tuple(shape))

    def made(self, recipe: Recipe) -> Tensor:
        """A tensor of ours, in single precision and in memory of its own."""
        found = [self.tensors[name].float() for name in recipe.names]
        made = recipe.make(*found) if recipe.make is not None else found[0]
        return made.clone(memory_format=torch.contiguous_format)  # the file may go

    def keep_used(self) -> None:
        """Let go of what no recipe reads."""
        self.tensors = {name: self.tensors[name] for name in self.tensors if name in self.used}

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

        Raises UserError when it is not there, has another number of axes or is empty.
        """
        if name not in self.tensors:
            raise UserError(f"{self.path} has no '{name}', which tells sizes of its model")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != axes:
            raise UserError(f"{self.path}: '{name}' is {list(shape)}, but must have {axes} axes")
        if 0 in shape:
            raise UserError(f"{self.path}: '{name}' is {list(shape)} and holds nothing")
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


def plain(tensor: Tensor) -> bool:
    """Whether a tensor holds real numbers, one beside the other."""
    return tensor.is_floating_point() and tensor.layout == torch.strided


def _kind(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return kind if tensor.layout == torch.strided else f"sparse {kind}"


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
