"""An encoder as model.onnx: any batch size, and any length up to the one it was trained on.

Letters: B batch, N patches, D width.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avssl.blocks.stems import PatchEmbed2d, PatchEmbed3d, SwapAxes
from avssl.errors import UserError
from avssl.export.source import Source, difference
from avssl.optional import need

TOLERANCE = 1e-4
OPSET = 18
LARGEST_BATCH = 2**15


class FirstPositions(nn.Module):
    """The rows of a fixed table that belong to the first tokens: those of a shorter input, whose
    patches are ordered by time."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, x: Tensor, keep: None = None) -> Tensor:
        """x: [B, N, D], all patches. Returns the same shape."""
        return x + self.table[:, : x.shape[1]]


class Exported(nn.Module):
    """An encoder as ONNX knows it: tensors in by position, tokens of each tower and pooled out.

    Its towers take inputs that are shorter in time than those of training.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.encoder = source.built_anew()
        self.inputs = list(source.encoder.inputs)
        self.step = {
            read: _shorten(self.encoder.towers[tower]) for tower, read in source.towers.items()
        }
        self.outputs = [*(f"{name}_tokens" for name in source.towers.values()), "pooled"]
        if len(self.inputs) == 1:
            self.outputs = ["tokens", "pooled"]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """inputs: as the encoder's, in its order. Returns tokens [B, N, D] of each, without CLS,
        and pooled [B, D]."""
        tokens = self.encoder.encode(dict(zip(self.inputs, inputs, strict=True)), pool="none")
        parts = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
        return (*parts, torch.cat([part.mean(1) for part in parts], dim=-1))


def write(source: Source, folder: Path) -> None:
    """Write model.onnx, weights inside.

    Raises UserError when torch cannot express the encoder in ONNX.
    """
    need("onnx", extra="export", purpose="export to ONNX")
    need("onnxscript", extra="export", purpose="export to ONNX")
    model = Exported(source)
    sizes = {name: source.shape(name) for name in model.inputs}
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    shapes = tuple(
        {0: batch, 2: _length(name, size[1], model.step[name])} for name, size in sizes.items()
    )
    inputs = tuple(source.draw(2).values())
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # torch's own, about its insides
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=model.inputs,
                output_names=model.outputs,
                opset_version=OPSET,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise UserError(
            f"torch {torch.__version__} cannot express {source.module} in ONNX: {_root(error)}"
        ) from error
    assert program is not None
    program.save(folder / "model.onnx", external_data=False)


def check(source: Source, folder: Path) -> float:
    """Largest difference of onnxruntime at two batch sizes and two lengths."""
    model = Exported(source)
    session = open_session(folder / "model.onnx")
    worst = 0.0
    for batch, share in ((1, 1.0), (3, 0.5)):
        inputs = [
            x[:, :, : shorter(x.shape[2], share, model.step[name])]
            for name, x in source.draw(batch).items()
        ]
        with torch.no_grad():
            wanted = model(*inputs)
        feeds = {name: x.numpy() for name, x in zip(model.inputs, inputs, strict=True)}
        for found, expected in zip(session.run(None, feeds), wanted, strict=True):
            worst = max(worst, difference(torch.from_numpy(found), expected))
    return worst


def shorter(length: int, share: float, step: int) -> int:
    """About this share of a length, in whole patches, at least one; all of it without a step."""
    return max(1, int(length * share) // step) * step if step else length


def open_session(path: Path) -> Any:
    """onnxruntime's session of a file, on the CPU."""
    runtime = need("onnxruntime", extra="export", purpose="checking the export to ONNX")
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _root(error: BaseException) -> str:
    """The first line of what an exporter's exception goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _shorten(tower: nn.Module) -> int:
    """Let the tower take shorter inputs; returns the length of a patch in time, 0 where the first
    patches are not the first in time."""
    children = dict(tower.named_children())
    if any(isinstance(child, SwapAxes) for child in children.values()):
        return 0  # patches are not ordered by time
    step = 0
    for name, child in children.items():
        table = getattr(child, "table", None)
        if isinstance(table, Tensor):
            setattr(tower, name, FirstPositions(table))
        if isinstance(child, (PatchEmbed2d, PatchEmbed3d)):
            whole = child.proj.stride == child.proj.kernel_size
            step = child.proj.stride[0] if whole else 0
    return step


def _length(name: str, length: int, step: int) -> Any:
    """The length in time: whole patches up to the trained number, or fixed where there is one."""
    if step == 0 or length == step:
        return None
    return step * torch.export.Dim(f"{name}_patches", min=1, max=length // step)
