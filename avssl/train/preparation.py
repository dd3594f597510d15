"""Whether a frozen teacher of another run sees pictures and sounds as that run prepared them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avssl.graph.calls import plan
from avssl.graph.spec import look_up, split_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avssl.graph.spec import GraphSpec
    from avssl.train.experiment import LoadedExperiment

PREPARED = ("mean", "std")  # crops and colours may well differ


def prepared_otherwise(experiment: LoadedExperiment) -> Iterator[str]:
    """A sentence for each input that a frozen teacher gets with another mean or std than in its own
    run."""
    made = experiment.config.data.inputs
    for instance in experiment.instances:
        references = experiment.references(instance, lambda _: {})
        for name, module in instance.spec.modules.items():
            if module.kind != "frozen" or module.source is None:
                continue
            where, _, inner = split_reference(module.source)
            found = look_up(references, where)
            if found is None or found.recipes is None:
                continue
            theirs = [found.recipes.get(key) for key in _inputs(found.spec, inner)]
            for key in _inputs(instance.spec, name):
                alike = [recipe for recipe in theirs if type(recipe) is type(made.get(key))]
                here = _numbers(made.get(key))
                if alike and here not in map(_numbers, alike):
                    told = (f"{part} {here[part]}" for part in here)
                    there = (f"{part} {number}" for part, number in _numbers(alike[0]).items())
                    yield (
                        f"{instance.name}: data.inputs.{key} has {', '.join(told)}, but the "
                        f"teacher '{name}' was trained with {', '.join(there)} ({module.source})."
                    )


def _inputs(spec: GraphSpec, module: str) -> list[str]:
    """The inputs that the calls of a module are made from."""
    nodes = [node.name for node in spec.calls.values() if node.call == module]
    keys = {key for call in plan(spec, nodes) for _, key in call.inputs}
    return [name for name in spec.inputs if f"batch.{name}" in keys]


def _numbers(recipe: Any) -> dict[str, Any]:
    return {part: getattr(recipe, part) for part in PREPARED if hasattr(recipe, part)}
