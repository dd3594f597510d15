"""What `tools/evaluate.py` leaves: tables, results.json, results.md, CSV files and pictures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from avssl.eval.clips import plain_name
from avssl.eval.evaluation import Evaluated, Options
from avssl.eval.maps import POINTS, confusion_picture, project, projection_picture
from avssl.eval.pictures import similarity_picture
from avssl.eval.place import replace_files
from avssl.eval.report import Sheet, shorten
from avssl.eval.score import Score, never_right
from avssl.files import write_whole

_TITLES = {"top1": "top-1", "top5": "top-5", "mAP": "mAP"}
_SHOWN = 10  # clips named for each reason


def sheets(found: Evaluated) -> list[Sheet]:
    """The tables: one for retrieval among each number of clips, or one for the scores."""
    if found.retrieval:
        return [_retrieval(found, clips) for clips in next(iter(found.retrieval.values()))]
    first = next(iter(next(iter(found.scores.values())).values()))
    figures = list(first.figures)
    columns = ["model", "encoder", *(_TITLES[name] for name in figures), "fitted to", "scored on"]
    rows = []
    for model, scores in found.scores.items():
        for name, one in scores.items():
            cells = [_cell(one, figure) for figure in figures]
            rows.append([model, name, *cells, str(one.fitted), str(one.scored)])
    for name, values in (("chance", first.chance), ("majority", first.majority)):
        if name == "majority" and "mAP" in figures:
            continue  # equal scores for all clips: the same
        rows.append([name, "", *(_percent(values[figure]) for figure in figures), "", ""])
    return [Sheet(_title(found, first), columns, rows)]


def notes(found: Evaluated) -> list[str]:
    """Lines on which clips do not count, and why."""
    lines = []
    if unknown := next((one for one in _trained(found).values() if one.unknown), None):
        lines.append(never_right(unknown.unknown, unknown.scored))
    for side, count in found.counts.items():
        lines.append(
            f"{side}: {count.used} clips used, {len(count.left_out)} left out, "
            f"{len(count.unreadable)} unreadable"
        )
        for path, reason in (*count.left_out[:_SHOWN], *count.unreadable[:_SHOWN]):
            lines.append(f"  {path}: {reason}")
    if found.clips.missing:
        lines.append(f"{len(found.clips.missing)} listed clips have no file")
    return lines + found.clips.notes


def show(found: Evaluated) -> None:
    """Print the tables and notes."""
    from rich.console import Console

    console = Console()
    for sheet in sheets(found):
        if console.is_terminal:
            console.print(sheet.rich())
        else:
            print(sheet.markdown())
    print("\n".join(notes(found)))


def write(found: Evaluated, folder: Path) -> None:
    """Write everything into the folder, in place of an earlier evaluation's files."""
    replace_files(folder, _record(found), lambda unfinished: _files(found, unfinished))


def _files(found: Evaluated, folder: Path) -> None:
    """Everything but results.json."""
    text = [sheet.markdown() for sheet in sheets(found)]
    text += ["", *(f"- {line.strip()}" for line in notes(found)), ""]
    text += [_classes(found, name, one).markdown() for name, one in _trained(found).items()]
    write_whole(folder / "results.md", "\n".join(text))
    classes = found.clips.classes
    for name, one in _trained(found).items():
        stem = plain_name(name)
        rows = zip(classes, one.clips, one.per_class, strict=True)
        _csv(folder / f"classes_{stem}.csv", ["class", "clips", _measure(one)], rows)
        if one.confusion is not None:
            write_whole(
                folder / f"confusion_{stem}.json",
                json.dumps({"classes": classes, "counts": one.confusion}) + "\n",
            )
            table = [[label, *row] for label, row in zip(classes, one.confusion, strict=True)]
            _csv(folder / f"confusion_{stem}.csv", ["true", *classes], table)
            title = f"{name}: {_percent(one.figures['top1'])} of {one.scored} clips right"
            confusion_picture(folder / f"confusion_{stem}.png", one.confusion, classes, title=title)
    _project(found, folder)


def _project(found: Evaluated, folder: Path) -> None:
    options = found.options
    scored = {row for part in found.clips.parts for row in part.score}
    chosen = [i for i, row in enumerate(found.features.clips.tolist()) if row in scored]
    if found.retrieval:
        pairs = next(iter(found.retrieval["trained"].values()))
        names = next(iter(pairs)).split("_to_")
        pair = {name: found.features[name] for name in names}
        features = type(found.features)(pair, found.features.labels, found.features.clips)
        similarity_picture(folder / "similarity.png", features, title=str(options.model))
        return
    if options.picture is None or len(chosen) < 5:
        return
    features = found.features.select(torch.tensor(chosen)).draw(POINTS)
    # of several labels, the one that fewest clips have
    targets = found.clips.targets[features.clips]  # [N, C]
    labels = torch.where(targets > 0, targets.sum(0), torch.inf).argmin(1)  # [N]
    rarest = ", coloured by each clip's rarest label" if options.multi_label else ""
    for name, x in features.vectors.items():
        points = project(x, method=options.picture, seed=options.seed)
        title = f"{name}, {len(x)} scored clips ({options.picture}, seed {options.seed}){rarest}"
        path = folder / f"{options.picture}_{plain_name(name)}.png"
        projection_picture(path, points, labels, found.clips.classes, title=title)


def _trained(found: Evaluated) -> dict[str, Score]:
    return found.scores.get("trained", {})


def _retrieval(found: Evaluated, clips: int) -> Sheet:
    columns = ["model", "direction", "R@1", "R@5", "R@10", "median rank", "clips"]
    rows = []
    for model, parts in found.retrieval.items():
        for way, one in parts[clips].items():
            cells = [*map(_percent, (one.r1, one.r5, one.r10)), f"{one.median_rank:g}"]
            rows.append([model, way.replace("_to_", " → "), *cells, str(one.clips)])
    guess = [f"{100 * min(1.0, k / clips):.3g} %" for k in (1, 5, 10)]
    rows.append(["chance", "", *guess, f"{(clips + 1) / 2:g}", ""])
    count = next(iter(found.counts.values())).used
    kind = f"all {clips}" if clips == count else f"a fixed draw of {clips}"
    split = "" if found.options.split == "all" else f"{found.options.split} "
    return Sheet(f"Retrieval among {kind} {split}clips", columns, rows)


def _title(found: Evaluated, first: Score) -> str:
    options = found.options
    task = {"linear": "Linear probe", "knn": "20 nearest neighbours"}[options.task]
    text = f"{task} over {len(found.clips.classes)} classes of {shorten(options.data)}"
    if first.folds:
        return f"{text}: mean and standard deviation of {len(first.folds)} folds"
    return f"{text}: fitted to {options.fit}, scored on {options.split}"


def _classes(found: Evaluated, name: str, one: Score) -> Sheet:
    values = zip(found.clips.classes, one.clips, one.per_class, strict=True)
    rows = [[label, str(clips), _percent(value)] for label, clips, value in values]
    return Sheet(f"{name}, trained: {_measure(one)} of each class", ["class", "clips",
                 _measure(one)], rows)  # fmt: skip


def _measure(one: Score) -> str:
    return "average precision" if one.confusion is None else "accuracy"


def _record(found: Evaluated) -> dict[str, Any]:
    options = found.options
    models: dict[str, Any] = {}
    for model, parts in found.retrieval.items():
        draw, whole = min(parts), max(parts)
        models[model] = {"retrieval": _ways(parts[whole]), "retrieval_subset": _ways(parts[draw])}
    for model, scores in found.scores.items():
        models[model] = {options.task: {name: _score(one) for name, one in scores.items()}}
    return {
        "task": options.task,
        "model": shorten(dict(found.model)) | {"encoders": found.fingerprints},
        "options": shorten(_options(options)),
        "clips": {side: asdict(count) for side, count in found.counts.items()},
        "listed without file": found.clips.missing,
        "notes": found.clips.notes,
        "classes": found.clips.classes,
        "models": models,
    }


def _ways(ways: Mapping[str, Any]) -> dict[str, Any]:
    return {way: asdict(one) for way, one in ways.items()}


def _score(one: Score) -> dict[str, Any]:
    record = asdict(one)
    record["per_class"] = [None if math.isnan(value) else value for value in one.per_class]
    return record


def _options(options: Options) -> dict[str, Any]:
    return {key: value for key, value in asdict(options).items() if key != "out"}


def _cell(one: Score, figure: str) -> str:
    spread = f" ± {100 * one.spread[figure]:.1f}" if one.spread else ""
    return f"{100 * one.figures[figure]:.1f}{spread} %"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _csv(path: Path, header: list[str], rows: Any) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_whole(path, text.getvalue())
