"""What ``tools/graph.py`` does: check, show and draw graph files and experiment files."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avssl.errors import ConfigError, UserError
from avssl.graph.check import Report, check_graph, check_spec
from avssl.graph.source import Document, Problems, display_path, read_yaml

if TYPE_CHECKING:
    from avssl.train.experiment import Instance


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="graph.py", description="check, show or draw graphs")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="report every mistake with file:line:col")
    check.add_argument("files", nargs="+", type=Path)
    show = commands.add_parser("show", help="parameters of each module, shapes of each node")
    show.add_argument("--json", action="store_true", help="print JSON")
    draw = commands.add_parser("draw", help="write an SVG picture and a mermaid text")
    draw.add_argument("--out", type=Path, help="folder for the pictures")
    for command in (show, draw):
        command.add_argument("file", type=Path)
        command.add_argument("overrides", nargs="*", help="args.key=value, or any experiment key")
    given = parser.parse_args(arguments)
    if given.command == "check":
        return _check(given.files)
    reports = _reports(given.file, given.overrides)
    if given.command == "show":
        _show(reports, as_json=given.json)
    else:
        _draw(reports, given.out or given.file.parent)
    return 0


def _check(files: Sequence[Path]) -> int:
    messages: list[str] = []
    for file in files:
        try:
            for line in _checked(file):
                print(line)
        except ConfigError as error:
            messages += error.messages
    if messages:
        raise ConfigError(list(dict.fromkeys(messages)))
    return 0


def _checked(file: Path) -> list[str]:
    """One line for a graph file that is in order, one for each stage of an experiment file."""
    document, name = _read(file), display_path(file)
    if "stages" in document.data:
        return [f"{name} {instance.name}: in order" for instance in _instances(file, ())]
    unresolved = check_graph(document).spec.unresolved
    if unresolved:
        return [
            f"{name}: names are in order; shapes are checked with its experiment file, which "
            f"defines {', '.join(unresolved)}"
        ]
    return [f"{name}: in order"]


def _reports(file: Path, overrides: Sequence[str]) -> dict[str, Report]:
    """One report for a graph file, one for each stage of an experiment file."""
    document = _read(file)
    if "stages" in document.data:
        return {
            f"{display_path(file)} {item.name}": check_spec(item.spec, Problems(), flops=True)
            for item in _instances(file, overrides)
        }
    problems = Problems()
    document.override(overrides, problems)
    problems.raise_if_any()
    return {display_path(file): check_graph(document, flops=True)}


def _read(file: Path) -> Document:
    problems = Problems()
    document = read_yaml(file, problems)
    problems.raise_if_any()
    assert document is not None
    return document


def _instances(file: Path, overrides: Sequence[str]) -> list["Instance"]:
    from avssl.train.experiment import load_experiment  # graph knows of training only here

    return load_experiment(file, overrides).instances


def _module_rows(report: Report) -> dict[str, dict[str, Any]]:
    graph = report.graph
    assert graph is not None
    rows: dict[str, dict[str, Any]] = {}
    for name, module in report.spec.modules.items():
        sizes = [(p.numel(), p.requires_grad) for p in graph.get_submodule(name).parameters()]
        rows[name] = {
            "type": module.block or (module.graph.name if module.graph else None),
            "kind": module.kind,
            "trained": sum(size for size, trained in sizes if trained),
            "frozen": sum(size for size, trained in sizes if not trained),
            "buffers": sum(buffer.numel() for buffer in graph.get_submodule(name).buffers()),
        }
    return rows


def _facts(report: Report) -> dict[str, Any]:
    if report.graph is None:
        unresolved = ", ".join(report.spec.unresolved)
        raise UserError(
            f"'{report.spec.name}' reads {unresolved} from another stage; show or draw the "
            "experiment file that defines that stage"
        )
    trace = report.trace
    return {
        "args": report.spec.arguments,
        "modules": _module_rows(report),
        "nodes": {
            name: {
                "ports": {port: _batched(shape) for port, shape in ports.items()},
                "dtypes": trace.dtypes[name],
                "flops": (trace.flops or {}).get(name, 0),
            }
            for name, ports in trace.shapes.items()
        }
        if trace
        else {},
        "losses": {
            name: {"weight": [loss.weight.start, loss.weight.end] if loss.weight else []}
            for name, loss in report.spec.losses.items()
        },
    }


def _batched(shape: tuple[int, ...]) -> list[str | int]:
    return ["B", *shape[1:]] if shape else []


def _show(reports: dict[str, Report], *, as_json: bool) -> None:
    facts = {name: _facts(report) for name, report in reports.items()}
    if as_json:
        print(json.dumps(facts if len(facts) > 1 else next(iter(facts.values())), indent=2))
        return
    from avssl.graph.draw import count

    for name, fact in facts.items():
        print(f"{name}\n  {'module':<18}{'type':<34}{'trained':>12}{'frozen':>12}")
        for module, row in fact["modules"].items():
            print(f"  {module:<18}{row['type']:<34}{row['trained']:>12,}{row['frozen']:>12,}")
        print(f"  {'node':<18}{'FLOP/clip':<12}ports")
        for node, row in fact["nodes"].items():
            if "/" in node:
                continue
            ports = ", ".join(
                f"{port} [{', '.join(map(str, shape))}]" for port, shape in row["ports"].items()
            )
            print(f"  {node:<18}{count(row['flops']) if row['flops'] else '-':<12}{ports}")


def _draw(reports: dict[str, Report], folder: Path) -> None:
    from avssl.graph.draw import mermaid, svg

    folder.mkdir(parents=True, exist_ok=True)
    for name, report in reports.items():
        _facts(report)
        file, _, stage = name.partition(" ")
        stem = folder / (Path(file).stem + (f".{stage}" if stage else ""))
        kinds: dict[str, Callable[[Report], str]] = {".svg": svg, ".mmd": mermaid}
        for suffix, render in kinds.items():
            path = stem.with_name(stem.name + suffix)
            path.write_text(render(report), encoding="utf-8")
            print(display_path(path))
