"""A checkpoint of another project as an encoder graph and its weights, strictly."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.graph.schema import Mismatch, convert
from avssl.graph.source import Problems, nearest
from avssl.graph.spec import GraphSpec
from avssl.weights.conversion import Conversion
from avssl.weights.files import Checkpoint, read_checkpoint
from avssl.weights.layouts import LAYOUTS, Layout, detect

CONFIGS = Path(__file__).parents[1] / "configs"
NAMED = 5  # names that a message gives


class ForeignWeights(Mapping[str, dict[str, Tensor]]):
    """Module -> its state dict. Each look-up makes one module's tensors anew and keeps nothing.

    Raises UserError at a look-up when values are not finite.
    """

    def __init__(
        self,
        conversion: Conversion,
        spec: GraphSpec,
        shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
    ) -> None:
        self._conversion, self._spec, self._shapes = conversion, spec, shapes

    def __getitem__(self, module: str) -> dict[str, Tensor]:
        keys, conversion = self._shapes[module], self._conversion
        recipes = conversion.recipes.get(module, {})
        found: dict[str, Tensor] = {}
        if any(key not in recipes for key in keys):  # allowed to be missing
            chosen = {module: self._spec.modules[module]}
            alone = dataclasses.replace(
                self._spec, modules=chosen, nodes={}, losses={}, outputs={}, log={}
            )
            initial = Graph.from_spec(alone).state_dict()
            found = {key: initial[f"{module}.{key}"] for key in keys}
        found |= {key: conversion.made(recipe) for key, recipe in recipes.items()}
        broken = [
            " and ".join(recipe.names)
            for key, recipe in recipes.items()
            if not found[key].is_meta and not bool(found[key].isfinite().all())
        ]
        if broken:
            raise UserError(
                f"{conversion.path}: values are not finite in {', '.join(broken[:NAMED])}"
                f"{_more(broken)}: the file is damaged, or its model diverged"
            )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another project.

    Attributes:
        layout: name in `LAYOUTS`.
        encoder: encoder file of the layout, whose graph the weights are for.
        args: of that graph, over those of the encoder file.
        data: the preparation of its inputs, in the sizes of this file.
        spec: the graph, read with `args`.
        weights: module -> key of its state dict -> tensor; nothing lacks, nothing is too many. A
            module's tensors are made each time they are asked for.
        report: what was loaded, left out and allowed, line by line.
        description: of the encoder file: whose weights these are.
    """

    layout: str
    encoder: Path
    args: dict[str, Any]
    data: DataConfig
    spec: GraphSpec
    weights: ForeignWeights
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
    encoder = CONFIGS / "encoders" / f"{name}.yaml"
    known = _checked_sizes(encoder, sizes) if sizes else {}
    conversion = Conversion(checkpoint, LAYOUTS[name].prefixes, known)
    LAYOUTS[name].convert(conversion)
    return _fit(conversion, name, encoder, allow)


def _fit(conversion: Conversion, name: str, encoder: Path, allow: Sequence[str]) -> Foreign:
    """Hold what was converted against the graph; raise, or report."""
    from avssl.encoders.model import read_encoder_file

    layout, path = LAYOUTS[name], conversion.path
    args = {**conversion.args, **conversion.sizes}
    file, spec = read_encoder_file(encoder, args=args)
    wanted = _shapes(spec)
    wrong = [
        f"{' and '.join(recipe.names)} gives {list(recipe.shape)}, but {module} takes "
        f"{list(wanted[module][key])}"
        for module, recipes in conversion.recipes.items()
        for key, recipe in recipes.items()
        if recipe.shape != wanted[module][key]
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit the layout {name}: {'; '.join(wrong[:NAMED])}{_more(wrong)}"
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
    for module, shapes in wanted.items():
        count = len(conversion.recipes.get(module, {}))
        report.append(f"loaded {count}/{len(shapes)} tensors into {module}")
    counted = [f"{pattern} {len(items)}" for pattern, items in left.items() if items]
    if counted:
        report.append(f"left out, as the layout says: {', '.join(counted)}")
    if conversion.missing:
        report.append(f"missing, but allowed (initial values): {', '.join(conversion.missing)}")
    if unknown:
        report.append(f"unexpected, but allowed: {', '.join(unknown)}")
    report += conversion.notes
    data = _prepared(path, file.data, conversion.data)
    conversion.keep_used()
    weights = ForeignWeights(conversion, spec, wanted)
    return Foreign(name, encoder, args, data, spec, weights, report, file.description)


def _kind(default: Any) -> Any:
    """The type of a size, by its default; null stands for a whole number that a file lacks."""
    if default is None:
        return int
    return list[int] if isinstance(default, list) else type(default)


def _checked_sizes(encoder: Path, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes as the encoder graph has them; UserError where it has no such argument."""
    known, found = _arguments(encoder), {}
    for name, value in sizes.items():
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean '{close}'?" if close else f"it has {', '.join(known)}"
            raise UserError(f"the layout {encoder.stem} has no size '{name}': {hint}")
        default = known[name]
        try:
            found[name] = convert(value, _kind(default))
        except Mismatch as expected:
            raise UserError(f"the size '{name}' must be {expected}, found {value!r}") from None
        numbers = found[name] if isinstance(default, list) else [found[name]]
        least = 0 if name == "prefix" else 1e-12
        if any(isinstance(number, (int, float)) and number < least for number in numbers):
            raise UserError(f"the size '{name}' must be above 0, found {value!r}")
    return found


@functools.cache
def _arguments(encoder: Path) -> dict[str, Any]:
    """Arguments of an encoder file's graph, and their defaults."""
    from avssl.encoders.model import read_encoder_file

    return read_encoder_file(encoder)[1].arguments


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


def _prepared(path: Path, data: DataConfig, changes: Mapping[str, Mapping[str, Any]]) -> DataConfig:
    try:
        inputs = {
            name: dataclasses.replace(recipe, **changes.get(name, {}))
            for name, recipe in data.inputs.items()
        }
        window = data.window
        for name, recipe in data.inputs.items():
            made = inputs[name]
            if isinstance(recipe, FbankConfig) and isinstance(made, FbankConfig):
                window *= made.frames / recipe.frames  # a window is as long as what is heard of it
        for name, made in inputs.items():
            if isinstance(made, FramesConfig) and made.seconds is not None:
                seconds = min(made.seconds, window)
                inputs[name] = dataclasses.replace(made, seconds=seconds)
        return dataclasses.replace(data, inputs=inputs, window=window)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: what prepares its inputs cannot be used ({error})") from None


def _first(name: str, layout: Layout) -> str | None:
    return next((item for item in layout.left_out if fnmatchcase(name, item)), None)


def _allowed(name: str, allow: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in allow)


def _more(items: Sequence[str]) -> str:
    return f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
