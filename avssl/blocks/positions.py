"""Position codes over a grid of patches: fixed sines and cosines, and a learned table.

2-D as in MAE (arXiv 2111.06377), separable 3-D as in MAE-ST (arXiv 2205.09113), 1-D as in
the Transformer (arXiv 1706.03762) over the patches of a clip in VideoMAE (arXiv 2203.12602).

Letters: B batch, N patches, K kept patches, D width, P tokens in front.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avssl.ops.patches import patch_grid
from avssl.registry import register


def sincos_1d(position: Tensor, width: int) -> Tensor:
    """Codes of positions: ``width / 2`` sines, then as many cosines, wavelengths 2 pi to 20000 pi.

    Args:
        position: [N], in patches.

    Returns:
        float64 [N, width].
    """
    frequency = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angle = position.double()[:, None] * frequency[None, :]  # [N, width / 2]
    return torch.cat([angle.sin(), angle.cos()], dim=1)  # [N, width]


def sincos_table_2d(grid: list[int], width: int, *, rows_first: bool = False) -> Tensor:
    """Codes of a row-major grid; the first half of the channels tells the *column*, as in MAE, or
    the row.

    Returns:
        float64 [rows * columns, width].
    """
    places = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")  # row, column
    halves = [sincos_1d(place.flatten(), width // 2) for place in places]
    return torch.cat(halves if rows_first else halves[::-1], dim=1)


def sincos_table_3d(grid: list[int], width: int) -> Tensor:
    """Separable codes of a grid of tubelets: D/4 channels for time, then 3D/4 for the place (2-D).

    Returns:
        float64 [frames * rows * columns, width].
    """
    frames, place = grid[0], sincos_table_2d(grid[1:], width - width // 4)
    time = sincos_1d(torch.arange(frames), width // 4)
    return torch.cat(
        [time.repeat_interleave(len(place), dim=0), place.repeat(frames, 1)], dim=1
    )  # [N, D]


def sinusoid_table(rows: int, width: int) -> Tensor:
    """Codes of numbered places as in the Transformer: sines in even channels, cosines in odd ones.

    Returns:
        float64 [rows, width].
    """
    codes = sincos_1d(torch.arange(rows), width)  # [N, D], sines first
    return codes.unflatten(1, (2, -1)).transpose(1, 2).flatten(1)  # [N, D], in turns


class _FixedPositions(nn.Module):
    """Adds a fixed table; the row of a leading CLS token is zero."""

    outputs = ("tokens",)
    table: Tensor

    def __init__(self, *, width: int, size: list[int], patch: list[int], cls: bool) -> None:
        super().__init__()
        self.width, self.cls = width, cls
        self.grid = patch_grid(size, patch)
        rows = torch.Size(self.grid).numel() + cls
        self.register_buffer("table", torch.empty(1, rows, width, dtype=torch.float32))

    def fill(self, codes: Tensor) -> None:
        self.table[:, : int(self.cls)] = 0
        self.table[:, int(self.cls) :] = codes.to(self.table)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x: [B, N, D], or [B, 1 + N, D] with ``cls``; with keep [B, K], the patches that
        x [B, K, D] are. Returns the shape of x."""
        if keep is not None:
            rows = keep.flatten() + int(self.cls)
            return x + self.table[0].index_select(0, rows).view_as(x)  # [B, K, D]
        if x.shape[1] != self.table.shape[1]:
            raise ValueError(
                f"{x.shape[1]} tokens came, but the positions are those of {self.table.shape[1]} "
                f"(a grid of {self.grid}{' and a CLS token' if self.cls else ''})"
            )
        return x + self.table  # [B, N, D]


@register("sincos_2d")
class SinCos2d(_FixedPositions):
    """Adds fixed 2-D codes to the tokens of an image or a spectrogram.

    Args:
        width: D, a multiple of 4.
        size: lengths of the input, for example [1024, 128] frames x bins.
        patch: lengths of a patch, for example [16, 16].
        cls: the tokens begin with a CLS token, whose row is zero.

    Example::

        positions = SinCos2d(width=768, size=[1024, 128], patch=[16, 16])
        positions.init_weights()
        tokens = positions(torch.zeros(2, 512, 768))
    """

    def __init__(self, *, width: int, size: list[int], patch: list[int], cls: bool = False) -> None:
        if width % 4 or len(size) != 2:
            raise ValueError(f"sincos_2d needs a width divisible by 4 and 2 sizes: {width}, {size}")
        super().__init__(width=width, size=size, patch=patch, cls=cls)

    def init_weights(self) -> None:
        self.fill(sincos_table_2d(self.grid, self.width))


@register("sincos_3d")
class SinCos3d(_FixedPositions):
    """Adds fixed separable codes to the tokens of a clip: D/4 channels time, 3D/4 place.

    Args:
        width: D, a multiple of 16.
        size: lengths of the input, for example [8, 224, 224] frames x height x width.
        patch: lengths of a tubelet, for example [2, 16, 16].
        cls: the tokens begin with a CLS token, whose row is zero.

    Example::

        positions = SinCos3d(width=768, size=[8, 224, 224], patch=[2, 16, 16])
        positions.init_weights()
        tokens = positions(torch.zeros(2, 784, 768))
    """

    def __init__(self, *, width: int, size: list[int], patch: list[int], cls: bool = False) -> None:
        if width % 16 or len(size) != 3:
            raise ValueError(
                f"sincos_3d needs a width divisible by 16 and 3 sizes: {width}, {size}"
            )
        super().__init__(width=width, size=size, patch=patch, cls=cls)

    def init_weights(self) -> None:
        self.fill(sincos_table_3d(self.grid, self.width))


@register("sinusoid_3d")
class Sinusoid3d(_FixedPositions):
    """Adds the Transformer's fixed codes to the tubelets of a clip, numbered through in order.

    Args:
        width: D, a multiple of 2.
        size: lengths of the input, for example [16, 224, 224] frames x height x width.
        patch: lengths of a tubelet, for example [2, 16, 16].
        cls: the tokens begin with a CLS token, whose row is zero.

    Example::

        positions = Sinusoid3d(width=768, size=[16, 224, 224], patch=[2, 16, 16])
        positions.init_weights()
        tokens = positions(torch.zeros(2, 1568, 768))
    """

    def __init__(self, *, width: int, size: list[int], patch: list[int], cls: bool = False) -> None:
        if width % 2 or len(size) != 3:
            raise ValueError(f"sinusoid_3d needs an even width and 3 sizes: {width}, {size}")
        super().__init__(width=width, size=size, patch=patch, cls=cls)

    def init_weights(self) -> None:
        self.fill(sinusoid_table(torch.Size(self.grid).numel(), self.width))


@register("position_table")
class PositionTable(nn.Module):
    """Adds a table that has rows for the tokens in front, too: learned (ViT, arXiv 2010.11929), or
    fixed, with zeros for the tokens in front (MAE, arXiv 2111.06377).

    Args:
        width: D.
        size: lengths of the input.
        patch: lengths of a patch.
        stride: from one patch to the next where patches overlap; None: side by side.
        prefix: tokens in front of the patches, P.
        kind: learned | sincos, the codes of ``sincos_2d`` or ``sincos_3d`` by the number of sizes |
            sincos_rows, 2-D, where the first half of the channels tells the row, as that of MoCo v3
            (arXiv 2104.02057) | sinusoid, those of ``sinusoid_3d`` for patches numbered in order.

    Example::

        positions = PositionTable(width=768, size=[224, 224], patch=[16, 16], prefix=1)
        positions.init_weights()
        positions(torch.zeros(2, 197, 768)).shape  # [2, 197, 768]
    """

    outputs = ("tokens",)
    table: Tensor

    def __init__(
        self,
        *,
        width: int,
        size: list[int],
        patch: list[int],
        stride: list[int] | None = None,
        prefix: int = 0,
        kind: Literal["learned", "sincos", "sincos_rows", "sinusoid"] = "learned",
    ) -> None:
        super().__init__()
        self.prefix, self.kind = prefix, kind
        self.grid = patch_grid(size, patch, stride)
        whole = {"sincos": 4 if len(self.grid) == 2 else 16, "sincos_rows": 4, "sinusoid": 2}
        axes = {"sincos": (2, 3), "sincos_rows": (2,)}.get(kind, (len(self.grid),))
        if width % whole.get(kind, 1) or len(self.grid) not in axes:
            raise ValueError(
                f"position_table: kind {kind} needs a width divisible by {whole.get(kind, 1)} and "
                f"{' or '.join(map(str, axes))} sizes: {width}, {size}"
            )
        table = torch.empty(1, torch.Size(self.grid).numel() + prefix, width)
        if kind == "learned":
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)

    def init_weights(self) -> None:
        if self.kind == "learned":
            nn.init.trunc_normal_(self.table, std=0.02)
            return
        width = self.table.shape[2]
        if self.kind == "sinusoid":
            codes = sinusoid_table(torch.Size(self.grid).numel(), width)
        elif len(self.grid) == 3:
            codes = sincos_table_3d(self.grid, width)
        else:
            codes = sincos_table_2d(self.grid, width, rows_first=self.kind == "sincos_rows")
        self.table[:, : self.prefix] = 0
        self.table[:, self.prefix :] = codes.to(self.table)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x: [B, P + N, D], or [B, P + K, D], the patches `keep` [B, K]. Returns the same shape."""
        if keep is not None:
            table = self.table[0].index_select(0, keep.flatten() + self.prefix)
            table = table.view(*keep.shape, -1)  # [B, K, D]
            front = self.table[:, : self.prefix].expand(len(table), -1, -1)  # [B, P, D]
            return x + torch.cat([front, table], dim=1)  # [B, P + K, D]
        if x.shape[1] != self.table.shape[1]:
            raise ValueError(
                f"{x.shape[1]} tokens came, but the positions are those of {self.table.shape[1]} "
                f"(a grid of {self.grid} and {self.prefix} tokens in front)"
            )
        return x + self.table  # [B, P + N, D]
