"""Reports: the final table (terminal, Markdown, results.json) and the card of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from avssl.eval.probes import Evaluation
from avssl.files import write_whole

if TYPE_CHECKING:
    from rich.table import Table

    from avssl.eval.metrics import Retrieval


@dataclass(frozen=True)
class Sheet:
    """One table: a title, column names, and rows of cells (text)."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The title in bold and the table; all columns but the first to the right."""
        lines = [f"**{self.title}**", "", _row(self.columns)]
        lines.append("|---|" + "---:|" * (len(self.columns) - 1))
        return "\n".join([*lines, *map(_row, self.rows)]) + "\n"

    def rich(self) -> Table:
        """The same for a terminal."""
        from rich.table import Table

        table = Table(title=self.title, title_justify="left")
        for i, name in enumerate(self.columns):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table


def sheets(models: Mapping[str, Evaluation]) -> list[Sheet]:
    """The final tables: retrieval in the subset and among all test clips, then the probes.

    models: row name ("untrained", "stage1", "stage2.2", ...) -> figures, on the same test split.
    What only untrained rows have is left out: towers of different stages have nothing in common.
    """
    first = next(iter(models.values()))
    trained = [m for name, m in models.items() if not name.startswith("untrained")] or [first]
    made = []
    if any(model.retrieval for model in trained):
        subset = next(iter(first.retrieval_subset.values())).clips
        if subset < first.clips:
            title = f"Retrieval among {subset} test clips (a fixed draw)"
            made.append(_retrieval(title, {n: m.retrieval_subset for n, m in models.items()}))
        title = f"Retrieval among all {first.clips} test clips"
        made.append(_retrieval(title, {n: m.retrieval for n, m in models.items()}))
    made.append(_probes(models, first, trained))
    return made


def markdown(models: Mapping[str, Evaluation]) -> str:
    """The final tables as Markdown."""
    return "\n".join(sheet.markdown() for sheet in sheets(models))


def print_tables(models: Mapping[str, Evaluation]) -> None:
    """Prints the final tables to the terminal, or as plain text to a file or pipe."""
    from rich.console import Console

    console = Console()
    for sheet in sheets(models):
        if console.is_terminal:
            console.print(sheet.rich())
        else:
            print(sheet.markdown())


def write_results(folder: Path, models: Mapping[str, Evaluation]) -> None:
    """Writes results.json and results.md into the run folder."""
    figures = {name: asdict(model) for name, model in models.items()}
    write_whole(folder / "results.json", json.dumps(figures, indent=2) + "\n")
    write_whole(folder / "results.md", markdown(models))


@dataclass(frozen=True)
class StageSummary:
    """What the card says of one stage; seconds is wall time, clips those seen in training."""

    name: str
    graph: str
    steps: int
    clips: int
    seconds: float
    parameters: int  # trained ones


@dataclass(frozen=True)
class Card:
    """Everything in a run's card.md. config: the merged experiment. machine: "2 CPU cores"."""

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    stages: Sequence[StageSummary]
    machine: str
    versions: Mapping[str, str]
    results: Mapping[str, Evaluation] = field(default_factory=dict)


def write_card(folder: Path, card: Card) -> Path:
    """Writes card.md into the run folder: results, data, times and the configuration.

    Absolute paths are shortened to their last part, so that the card can be handed on.
    """
    lines = [f"# {card.name}", ""]
    if card.results:
        lines += ["## Results", "", markdown(card.results)]
    lines += ["## Training", "", f"Seed {card.config.get('seed', 0)}, on {card.machine}.", ""]
    columns = ["stage", "graph", "steps", "clips seen", "minutes", "trained parameters"]
    rows = [
        [s.name, shorten(s.graph), f"{s.steps:,}", f"{s.clips:,}", f"{s.seconds / 60:.1f}",
         f"{s.parameters / 1e6:.2f} M"]
        for s in card.stages
    ]  # fmt: skip
    lines += [_row(columns), "|---|---|---:|---:|---:|---:|", *map(_row, rows), ""]
    lines += ["## Data", ""]
    lines += [f"- {key}: {shorten(value)}" for key, value in card.data.items()]
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    lines += ["", f"Versions: {versions}.", "", "## Configuration", "", "```yaml"]
    lines += [yaml.safe_dump(shorten(dict(card.config)), sort_keys=False).rstrip(), "```", ""]
    path = folder / "card.md"
    write_whole(path, "\n".join(lines))
    return path


def _retrieval(title: str, models: Mapping[str, Mapping[str, Retrieval]]) -> Sheet:
    ways = list(next(iter(models.values())))
    clips = next(iter(next(iter(models.values())).values())).clips
    columns = ["model"]
    for way in ways:
        arrow = way.replace("_to_", " → ")
        columns += [f"{arrow} R@1", "R@5", "median rank"]
    rows = [
        [name, *(cell for way in ways for cell in _recalls(found.get(way)))]
        for name, found in models.items()
    ]
    chance = [_percent(1 / clips), _percent(min(1.0, 5 / clips)), f"{(clips + 1) / 2:g}"]
    return Sheet(title, columns, [*rows, ["chance", *chance * len(ways)]])


def _recalls(found: Retrieval | None) -> list[str]:
    if found is None:  # a stage without one of the towers
        return ["-"] * 3
    return [_percent(found.r1), _percent(found.r5), f"{found.median_rank:g}"]


def _probes(
    models: Mapping[str, Evaluation], first: Evaluation, trained: Sequence[Evaluation]
) -> Sheet:
    subjects = [name for name in first.linear if any(name in m.linear for m in trained)]
    columns = ["model"]
    columns += [f"linear {name}" for name in subjects]
    columns += [f"kNN {name}" for name in subjects]
    columns += [f"RankMe {name}" for name in first.rankme]
    rows = []
    for name, model in models.items():
        shares = [
            _percent(found[subject]) if subject in found else "-"
            for found in (model.linear, model.knn)
            for subject in subjects
        ]
        ranks = [f"{model.rankme[x]:.1f}" if x in model.rankme else "-" for x in first.rankme]
        rows.append([name, *shares, *ranks])
    if not subjects:
        return Sheet("Effective rank of the test features", columns, rows)
    always = _percent(first.majority)
    rows.append(["most frequent class", *[always] * 2 * len(subjects), *["-"] * len(first.rankme)])
    title = (
        f"Accuracy over {first.classes} classes: fitted to {first.train_clips} train clips, "
        f"scored on {first.clips} test clips; effective rank of the test features"
    )
    return Sheet(title, columns, rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def shorten(value: Any) -> Any:
    """`value` with every absolute path cut to its last part."""
    if isinstance(value, Mapping):
        return {str(key): shorten(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [shorten(x) for x in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and re.match(r"^(/|~|[A-Za-z]:[\\/])", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value
