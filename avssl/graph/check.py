"""All checks of a graph in one go, before any data is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avssl.errors import UserError
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Document, Problems
from avssl.graph.spec import GraphSpec, Reference, look_up, split_reference

if TYPE_CHECKING:
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
    """Report modules whose ``init_from`` names another project's weights that do not fit them."""
    for name, module in graph.spec.modules.items():
        if module.options.init_from is None or references is None:
            continue
        stage, _, inner = split_reference(module.options.init_from)
        found = look_up(references, stage)
        if found is not None and found.start is not None:
            try:
                found.start(inner, graph.get_submodule(name))
            except UserError as error:
                problems.add(module.place, f"module '{name}': {error}.")


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
