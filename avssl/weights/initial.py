"""Where training starts from another project's weights: the rules that fit its tower to ours.

| what differs | rule |
|---|---|
| kernel of the stem, one channel in ours | summed over the channels, AudioMAE's rule |
| kernel of the stem, one frame in ours or a spectrogram | summed over its frames, AudioMAE's rule |
| kernel of the stem, one frame in theirs | repeated over our frames, divided by their number |
| fixed positions in ours | stay; the row of the CLS token, zero here, joins the token |
| a last norm that ours lacks | left out |

Everything else must be the same, or it is an error. AudioMAE is arXiv 2207.06405; kernels are
repeated as in ViViT, arXiv 2103.15691, 4.2.

Letters: D width, C channels, N patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from avssl.blocks.transformer import Attention
from avssl.errors import UserError
from avssl.graph.spec import GraphSpec, Reference
from avssl.weights.foreign import NAMED, Foreign, read_foreign

STEM, TABLE, CLS = "stem.proj.weight", "positions.table", "cls.cls_token"


def foreign_reference(
    path: Path,
    *,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
) -> Reference:
    """A checkpoint that ``init_from`` and ``frozen_from`` may name: "weights/mae.pth:image", or a
    mapping with the rest of the arguments, which are those of `read_foreign`."""
    foreign = read_foreign(path, layout=layout, allow=allow, sizes=sizes)

    def weights() -> dict[str, Tensor]:
        return {
            f"{module}.{key}": tensor
            for module, tensors in foreign.weights.items()
            for key, tensor in tensors.items()
        }

    return Reference(
        foreign.spec, weights, lambda module, target: start(foreign, module, path.name, target)
    )


def start(
    foreign: Foreign, module: str, file: str, target: nn.Module
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights for `target`, keyed as its state dict, and what was done, line by line.

    Raises:
        UserError: the two differ in a way that no rule covers.
    """
    source, own = foreign.weights[module], target.state_dict()
    spec = foreign.spec.modules[module].graph
    assert spec is not None
    where = f"{file}:{module} (layout {foreign.layout})"
    _same_heads(foreign, where, target)
    if _alike(source, own):
        return dict(source), [f"{len(own)}/{len(own)} tensors are those of {where}"]
    found, lines, rest = dict[str, Tensor](), list[str](), dict(source)
    if STEM in rest and STEM in own:
        found[STEM] = _kernel(rest.pop(STEM), own[STEM].shape, where, lines)
    if TABLE in rest and TABLE in dict(target.named_buffers()):
        table = rest.pop(TABLE)
        found[TABLE] = own[TABLE]
        lines.append("positions: the module's own fixed ones stay")
        prefix = _prefix(spec)
        if CLS in rest and prefix:
            found[CLS] = rest.pop(CLS) + table[:, :prefix]
            lines[-1] += ", the CLS token's row of theirs joins the token"
    for key in [key for key in rest if key.startswith("norm.") and key not in own]:
        lines.append(f"{key}: left out, for the module has no last norm")
        del rest[key]
    found |= rest
    wrong = sorted(set(found) ^ set(own)) + [
        key for key in own if key in found and found[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        told = ", ".join(_told(key, found, own) for key in wrong[:NAMED])
        raise UserError(f"{where} cannot start this module: {told}{more}")
    return found, [f"starts from {where}: {len(own)} tensors", *lines]


def _alike(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    shapes = [{key: item.shape for key, item in state.items()} for state in (source, own)]
    return shapes[0] == shapes[1]


def _same_heads(foreign: Foreign, where: str, target: nn.Module) -> None:
    """Weights fit any number of heads, but mean one only."""
    for block in target.modules():
        if isinstance(block, Attention) and block.heads != foreign.args["heads"]:
            raise UserError(
                f"{where} has {foreign.args['heads']} heads, this module {block.heads}: give it "
                "as many"
            )


def _prefix(spec: GraphSpec) -> int:
    """Rows of a tower's positions that belong to tokens in front."""
    return int(spec.modules["positions"].arguments.get("prefix", 0))


def _kernel(kernel: Tensor, shape: tuple[int, ...], where: str, lines: list[str]) -> Tensor:
    """A stem's kernel [D, C, t, p, p] or [D, C, p, p] in our shape."""
    theirs = tuple(kernel.shape)
    if theirs == shape:
        return kernel
    wide = kernel if kernel.dim() == 5 else kernel.unsqueeze(2)  # [D, C, t, p, p]
    frames = shape[2] if len(shape) == 5 else 1
    if wide.shape[1] != shape[1] == 1:
        wide = wide.sum(1, keepdim=True)
        lines.append(f"stem: kernels summed over {theirs[1]} channels")
    if wide.shape[2] != frames == 1:
        wide = wide.sum(2, keepdim=True)
        lines.append(f"stem: kernels summed over {kernel.shape[2]} frames")
    elif wide.shape[2] == 1 != frames:
        wide = wide.expand(-1, -1, frames, -1, -1) / frames
        lines.append(f"stem: kernels repeated over {frames} frames and divided by {frames}")
    fitted = wide if len(shape) == 5 else wide.squeeze(2)
    if tuple(fitted.shape) != tuple(shape):
        raise UserError(
            f"{where} cannot start this module: its stem's kernel is {list(theirs)}, ours "
            f"{list(shape)}"
        )
    return fitted.contiguous()


def _told(key: str, found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if key not in own:
        return f"{key} has no place in it"
    if key not in found:
        return f"it lacks {key}"
    return f"{key} is {list(found[key].shape)} there and {list(own[key].shape)} here"
