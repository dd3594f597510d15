"""An encoder as model.onnx: any batch size; where patches are ordered by time, any length up to the
one it was trained on; where clips keep their own length, any length, the same for a batch.

Letters: B batch, N patches or frames, D width.
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
from avssl.data.length_config import FRAMES
from avssl.errors import UserError
from avssl.export.source import Source, difference
from avssl.export.vit import POSITIONS
from avssl.ops.attention import use_attention_backend
from avssl.optional import need

TOLERANCE = 1e-4
OPSET = 18
LARGEST_BATCH = 2**15
LONGEST = 2**15  # frames


class FirstPositions(nn.Module):
    """The rows of a table that belong to the first tokens: those of a shorter input, whose patches
    are ordered by time."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, x: Tensor, keep: None = None) -> Tensor:
        """x: [B, N, D], tokens in front and all patches. Returns the same shape."""
        return x + self.table[:, : x.shape[1]]


class Exported(nn.Module):
    """An encoder as ONNX knows it: tensors in by position, tokens of each tower and pooled out.

    Its towers take inputs that are shorter in time than those of training.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.encoder = source.built_anew()
        self.encoder.any_length = True
        self.inputs = list(source.encoder.inputs)
        self.step = {}
        for tower, read in source.towers.items():
            module = self.encoder.towers[tower]
            self.step[read] = patch_in_time(module)
            if self.step[read]:
                _shorten(module)
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
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    shapes = tuple({0: batch, **_time(source, name, model.step[name])} for name in model.inputs)
    drawn = source.draw(2)
    inputs = tuple(drawn[name] for name in model.inputs)
    try:
        with (
            use_attention_backend("plain"),  # torch 2.11 mistakes the strides of SDPA with a bias
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
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
    """Largest difference of onnxruntime: from the encoder at the trained length, from `Exported` at
    a shorter one, which the encoder itself does not take."""
    model = Exported(source)
    session = open_session(folder / "model.onnx")
    worst = 0.0
    for batch, share in ((1, 1.0), (3, 1.0), (3, 0.5)):
        drawn = source.draw(batch)
        inputs = {
            name: _begin(source, name, drawn[name], share, model.step[name])
            for name in model.inputs
        }
        with torch.no_grad():
            wanted = _features(source, inputs) if share == 1.0 else model(*inputs.values())
        found = session.run(None, {name: x.numpy() for name, x in inputs.items()})
        for array, expected in zip(found, wanted, strict=True):
            worst = max(worst, difference(torch.from_numpy(array), expected))
    return worst


def _features(source: Source, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The encoder's own, in the order of `Exported`'s outputs."""
    tokens = source.encoder.encode(inputs, pool="none")
    parts = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
    return [*parts, source.encoder.encode(inputs)]


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


def patch_in_time(tower: nn.Module) -> int:
    """The length of a patch in time, if a shorter input is the tower's first patches; else 0.

    That holds where avssl's own blocks cut patches side by side, time first. What a block of
    someone else's makes of fewer tokens is not known here.
    """
    parts = list(tower.modules())
    own = all(type(part).__module__.partition(".")[0] in ("avssl", "torch") for part in parts)
    turned = any(isinstance(part, SwapAxes) for part in parts)
    stems = [part.proj for part in parts if isinstance(part, (PatchEmbed2d, PatchEmbed3d))]
    if not own or turned or len(stems) != 1 or stems[0].stride != stems[0].kernel_size:
        return 0
    return stems[0].stride[0]


def _shorten(tower: nn.Module) -> None:
    """Let a tower's positions take fewer patches."""
    for part in list(tower.modules()):
        for name, child in part.named_children():
            if type(child) in POSITIONS:
                table = child.table
                assert isinstance(table, Tensor)
                setattr(part, name, FirstPositions(table.detach()))


def _time(source: Source, name: str, step: int) -> dict[int, Any]:
    """The axis of time and its length: whole patches up to the trained number, fixed where there is
    one; frames in any number where clips keep their own length."""
    shape = source.shape(name)
    if FRAMES in shape:
        return {1 + shape.index(FRAMES): torch.export.Dim("frames", min=2, max=LONGEST)}
    length = shape[1]
    assert isinstance(length, int)
    if step == 0 or length == step:
        return {}
    return {2: step * torch.export.Dim(f"{name}_patches", min=1, max=length // step)}


def _begin(source: Source, name: str, x: Tensor, share: float, step: int) -> Tensor:
    """This share of the time of an input, in whole patches."""
    shape = source.shape(name)
    axis, step = (1 + shape.index(FRAMES), 1) if FRAMES in shape else (2, step)
    return x.narrow(axis, 0, shorter(x.shape[axis], share, step))
