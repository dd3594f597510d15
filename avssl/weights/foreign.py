"""A checkpoint of another project as an encoder graph and its weights, strictly."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from avssl.data.config import DataConfig
from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.graph.source import Problems, nearest
from avssl.graph.spec import GraphSpec
from avssl.weights.conversion import Conversion
from avssl.weights.files import Checkpoint, read_checkpoint
from avssl.weights.layouts import LAYOUTS, Layout, detect

CONFIGS = Path(__file__).parents[1] / "configs"
NAMED = 5  # names that a message gives


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another project.

    Attributes:
        layout: name in `LAYOUTS`.
        encoder: encoder file of the layout, whose graph the weights are for.
        args: of that graph, over those of the encoder file.
        data: the preparation of its inputs, in the sizes of this file.
        spec: the graph, read with `args`.
        weights: module -> key of its state dict -> tensor; nothing lacks, nothing is too many.
        report: what was loaded, left out and allowed, line by line.
        description: of the encoder file: whose weights these are.
    """

    layout: str
    encoder: Path
    args: dict[str, Any]
    data: DataConfig
    spec: GraphSpec
    weights: dict[str, dict[str, Tensor]]
    report: list[str]
    description: dict[str, Any]


def read_foreign(
    path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
) -> Foreign:
    """Read a checkpoint of a known layout into the modules of its encoder graph.

        foreign = read_foreign("mae_pretrain_vit_base.pth")
        print("\\n".join(foreign.report))  # loaded 150/150 tensors into image

    Args:
        path: .pth, .pt, .bin, .safetensors, or a Hugging Face folder.
        layout: one of `LAYOUTS`; without it, told from the names in the file.
        allow: patterns (fnmatch) of names that may be missing (initial values then) or unexpected.
        sizes: arguments of the encoder graph that a file does not show, such as {"heads": 12};
            over what the layout assumes.

    Raises:
        UserError: the file cannot be read, is of no known layout, or does not fit it: tensors are
            missing, unexpected or of another shape.
    """
    return fit_checkpoint(
        read_checkpoint(Path(path).expanduser()), layout=layout, allow=allow, sizes=sizes
    )


def fit_checkpoint(
    checkpoint: Checkpoint,
    *,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
) -> Foreign:
    """`read_foreign` of tensors that are read already."""
    name = layout or detect(checkpoint)
    if name not in LAYOUTS:
        close = nearest(name, LAYOUTS)
        hint = f"did you mean '{close}'?" if close else f"there are {', '.join(LAYOUTS)}"
        raise UserError(f"there is no layout '{name}': {hint}")
    conversion = Conversion(checkpoint, LAYOUTS[name].prefixes, sizes or {})
    LAYOUTS[name].convert(conversion)
    encoder = CONFIGS / "encoders" / f"{name}.yaml"
    return _fit(conversion, name, encoder, allow)


def _fit(conversion: Conversion, name: str, encoder: Path, allow: Sequence[str]) -> Foreign:
    """Hold what was converted against the graph; raise, or report."""
    from avssl.encoders.model import read_encoder_file

    layout, path = LAYOUTS[name], conversion.path
    args = {**conversion.args, **conversion.sizes}
    file, spec = read_encoder_file(encoder, args=args)
    wanted = _shapes(spec)
    wrong = [
        f"{conversion.origin[module, key]} gives {list(tensor.shape)}, but {module} takes "
        f"{list(wanted[module][key])}"
        for module, tensors in conversion.weights.items()
        for key, tensor in tensors.items()
        if tuple(tensor.shape) != wanted[module][key]
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit the layout {name}: {'; '.join(wrong[:NAMED])}{_more(wrong)}"
        )
    broken = [
        conversion.origin[module, key]
        for module, tensors in conversion.weights.items()
        for key, tensor in tensors.items()
        if not tensor.is_meta and not bool(tensor.isfinite().all())
    ]
    if broken:
        raise UserError(
            f"{path}: values are not finite in {', '.join(broken[:NAMED])}{_more(broken)}: the "
            "file is damaged, or its model diverged"
        )
    missing = [item for item in conversion.missing if not _allowed(item, allow)]
    rest = [item for item in conversion.tensors if item not in conversion.used]
    left = {
        pattern: [item for item in rest if _first(item, layout) == pattern]
        for pattern in layout.left_out
    }
    unknown = [item for item in rest if _first(item, layout) is None]
    unexpected = [item for item in unknown if not _allowed(item, allow)]
    problems = [
        f"{len(items)} tensors are {what}: {', '.join(items[:NAMED])}{_more(items)}"
        for items, what in ((missing, "missing"), (unexpected, "unexpected"))
        if items
    ]
    if problems:
        raise UserError(
            f"{path} does not fit the layout {name}: {'; '.join(problems)}. If that is meant, "
            "allow them by pattern, or say another layout"
        )
    report = [f"{path.name}: layout {name}"]
    weights = conversion.weights
    for module, shapes in wanted.items():
        count = sum(key in weights.get(module, {}) for key in shapes)
        report.append(f"loaded {count}/{len(shapes)} tensors into {module}")
    counted = [f"{pattern} {len(items)}" for pattern, items in left.items() if items]
    if counted:
        report.append(f"left out, as the layout says: {', '.join(counted)}")
    if conversion.missing:
        report.append(f"missing, but allowed (initial values): {', '.join(conversion.missing)}")
    if unknown:
        report.append(f"unexpected, but allowed: {', '.join(unknown)}")
    data = _prepared(path, file.data, conversion.data)
    return Foreign(
        name, encoder, args, data, spec, _complete(spec, wanted, weights), report, file.description
    )


def _shapes(spec: GraphSpec) -> dict[str, dict[str, tuple[int, ...]]]:
    """Module -> key -> shape, of a graph that is not given memory."""
    problems = Problems()
    graph = Graph(spec, problems)
    problems.raise_if_any()
    return {
        name: {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        for name, module in graph.named_children()
        if module.state_dict()
    }


def _complete(
    spec: GraphSpec,
    wanted: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, dict[str, Tensor]]:
    """The weights, with initial values where a file has none."""
    found = {name: dict(weights.get(name, {})) for name in wanted}
    if any(len(found[name]) < len(shapes) for name, shapes in wanted.items()):
        initial = Graph.from_spec(spec).state_dict()
        for name, shapes in wanted.items():
            found[name] = {key: found[name].get(key, initial[f"{name}.{key}"]) for key in shapes}
    return found


def _prepared(path: Path, data: DataConfig, changes: Mapping[str, Mapping[str, Any]]) -> DataConfig:
    try:
        inputs = {
            name: dataclasses.replace(recipe, **changes.get(name, {}))
            for name, recipe in data.inputs.items()
        }
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: what prepares its inputs cannot be used ({error})") from None
    return dataclasses.replace(data, inputs=inputs)


def _first(name: str, layout: Layout) -> str | None:
    return next((item for item in layout.left_out if fnmatchcase(name, item)), None)


def _allowed(name: str, allow: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in allow)


def _more(items: Sequence[str]) -> str:
    return f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
