"""All checks of a graph in one go, before any data is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avssl.errors import UserError
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Document, Problems
from avssl.graph.spec import GraphSpec, Origin, Reference, look_up, split_reference

if TYPE_CHECKING:
    from torch import nn

    from avssl.graph.dryrun import Trace
    from avssl.graph.graph import Graph


@dataclass(frozen=True)
class Report:
    """A graph that passed: on the meta device, with what its dry run saw.

    ``graph`` and ``trace`` are None where modules are read from a stage that is not known here
    (``spec.unresolved``): such a graph is checked in full through its experiment file. ``trace`` is
    None for a sub-graph with free dimensions, whose shapes are checked where it is used.
    """

    spec: GraphSpec
    graph: "Graph | None"
    trace: "Trace | None"


def check_graph(
    source: Path | Document,
    *,
    args: Mapping[str, Any] | None = None,
    references: Mapping[str, Reference] | None = None,
    flops: bool = False,
) -> Report:
    """Check one graph file (or document), sub-graphs included.

    Raises:
        ConfigError: every mistake, in file order. Names and types come first: only when they are
            all right is the graph built and run on the meta device.
    """
    problems = Problems()
    spec = read_graph(source, problems, args=args, references=references)
    if spec is not None:
        connect(spec, problems)
    problems.raise_if_any()
    assert spec is not None
    report = check_spec(spec, problems, flops=flops)
    problems.raise_if_any()
    return report


def check_starts(
    graph: "Graph", references: Mapping[str, Reference] | None, problems: Problems
) -> None:
    """Report modules whose ``init_from`` or ``frozen_from`` names weights that do not fit them, or
    that are damaged."""
    for name, module in graph.spec.modules.items():
        frozen = module.kind == "frozen"
        reference = module.source if frozen else module.options.init_from
        if reference is None or references is None:
            continue
        stage, _, inner = split_reference(reference)
        found = look_up(references, stage)
        if found is None:
            continue
        target = graph.get_submodule(name)
        try:
            if found.start is None:
                _check_alike(target, inner, found, reference)
            elif not frozen:  # what is frozen is built as its weights need it
                found.start(inner, target)
        except UserError as error:
            problems.add(module.place, f"module '{name}': {str(error).rstrip('.')}.")


def _check_alike(target: "nn.Module", inner: str, found: Reference, named: str | Origin) -> None:
    """Hold a module against the one of a stage or run that it takes its weights from: `inner` of
    `found`.

    Raises:
        UserError: the run's weights are damaged or have other names or shapes, or they have as many
        attention heads as mean something else here.
    """
    from avssl.graph.graph import MISFIT, Graph, below, must_fit

    source = Graph.lone(found.spec, inner)
    if found.shapes is None:
        shapes = {key: tuple(tensor.shape) for key, tensor in source.state_dict().items()}
    else:
        shapes = below(inner, found.shapes())
    must_fit(target, shapes, f"it {MISFIT} '{named}'")
    theirs = dict(source.named_modules())
    for key, part in target.named_modules():
        heads, there = (getattr(each, "heads", None) for each in (part, theirs.get(key)))
        if heads != there and there is not None:
            raise UserError(
                f"'{named}' has {there} attention heads, this module {heads}, for which its "
                "weights mean something else: give it as many"
            )


def check_spec(spec: GraphSpec, problems: Problems, *, flops: bool = False) -> Report:
    """Build and dry-run a graph whose names are in order; what fails goes to ``problems``."""
    if spec.unresolved:
        return Report(spec, None, None)
    from avssl.graph.dryrun import dry_run  # imports torch, which names alone do not need
    from avssl.graph.graph import Graph

    before = len(problems.found)
    graph = Graph(spec, problems)
    if len(problems.found) > before:
        return Report(spec, None, None)
    if spec.free_dimensions and not spec.losses:
        return Report(spec, graph, None)
    return Report(spec, graph, dry_run(graph, problems, flops=flops))
