"""All checks of a graph in one go, before any data is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Document, Problems
from avssl.graph.spec import GraphSpec, Reference

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
