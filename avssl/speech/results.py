"""What a recogniser got wrong: each split read and scored, as CSV, JSON and a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avssl.data.config import DataConfig
from avssl.data.manifest import Manifest
from avssl.data.usable import nothing_usable
from avssl.errors import UserError
from avssl.files import write_whole
from avssl.speech.decoding import Decoding
from avssl.speech.readers import described
from avssl.speech.scoring import error_rates
from avssl.speech.transcripts import Reading, Task, transcribe_clips

if TYPE_CHECKING:
    from avssl.speech.reader import Reader
    from avssl.speech.units import Units

RESULTS = "results.json"
COLUMNS = ("path", "reference", "hypothesis", "confidence")


def score_split(
    reader: Reader, manifest: Manifest, data: DataConfig, *, split: str, folder: Path
) -> dict[str, Any]:
    """Read every clip of a split that has a transcript, and score what was read.

    References are brought to the form of the units (`Units.normalise`) and no further: what no unit
    stands for counts as wrong.

    Args:
        manifest: of the clips. data: how they are read, without transcripts.
        folder: of <split>.csv, and of what an interrupted call leaves.

    Returns:
        Error rates, and `left_out`: (path, reason) of clips that were not scored.

    Raises:
        UserError: no clip of the split has a transcript, or none can be read.
    """
    clips = manifest.clips
    rows = scored_rows(manifest, reader.units, split=split)
    task = Task(split, reader, reader.settings, manifest, rows, data)
    found = transcribe_clips(task, folder / f"{split}.jsonl")
    read = [item for item in found if not item.failure]
    left_out = [(item.path, item.failure) for item in found if item.failure]
    silent = {row for row, clip in enumerate(clips) if clip.split == split} - {*rows}
    left_out += [(clips[row].path, "has no transcript") for row in sorted(silent)]
    if not read:
        path, reason = left_out[0]
        raise UserError(f"no clip of the split '{split}' can be read; the first, {path}: {reason}")
    references = [reader.units.normalise(clips[item.row].text) for item in read]
    _write_csv(folder / f"{split}.csv", read, references)
    rates = error_rates(references, [item.text for item in read])
    confidence = sum(item.confidence for item in read) / len(read)
    return {**asdict(rates), "confidence": confidence, "left_out": left_out}


def scored_rows(manifest: Manifest, units: Units, *, split: str) -> list[int]:
    """Rows of the clips of a split that have a transcript.

    Raises:
        UserError: there is none.
    """
    every = [row for row, clip in enumerate(manifest.clips) if clip.split == split]
    rows = [row for row in every if units.normalise(manifest.clips[row].text)]
    if not every:
        without = f"leave '{split}' out of speech.splits"
        raise UserError(f"{nothing_usable(manifest, split, [])}; or {without}")
    if not rows:
        raise UserError(
            f"the split '{split}' has {len(every)} clips and none with a transcript: fill the "
            f"column 'text' of its manifest, or leave '{split}' out of speech.splits"
        )
    return rows


def write_results(
    found: dict[str, dict[str, Any]], folder: Path, reader: Reader, *, name: str
) -> None:
    """Write results.json and results.md, and print the table."""
    about = {
        "name": name,
        "reads": reader.kind,
        "units": len(reader.units),
        "decode": asdict(reader.settings),
        "reader": reader.description,
    }
    write_whole(folder / RESULTS, json.dumps({**about, "splits": found}, indent=1) + "\n")
    table = results_table(found, reader.settings, name=name, kind=reader.kind)
    write_whole(folder / "results.md", table)
    print(table, end="", flush=True)
    for split, figures in found.items():
        for path, reason in figures["left_out"][:3]:
            print(f"{split}: {path} was not scored: {reason}")
    print(f"written: {folder}")


def results_table(
    found: dict[str, dict[str, Any]], settings: Decoding, *, name: str, kind: str
) -> str:
    """The figures as Markdown, with the settings of the search."""
    what = {"video": "lip reading", "audio": "speech", "both": "lips and speech"}[kind]
    lines = [
        f"# {name}: {what}",
        "",
        f"Search: {described(settings)}.",
        "",
        "| split | clips | WER, % | CER, % | words | sub | del | ins | without mistake, % "
        "| confidence | left out |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for split, x in found.items():
        lines.append(
            f"| {split} | {x['clips']} | {100 * x['wer']:.1f} | {100 * x['cer']:.1f} "
            f"| {x['words']} | {x['substitutions']} | {x['deletions']} | {x['insertions']} "
            f"| {100 * x['exact']:.1f} | {x['confidence']:.2f} | {len(x['left_out'])} |"
        )
    return "\n".join(lines) + "\n"


def _write_csv(path: Path, found: Sequence[Reading], references: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item, reference in zip(found, references, strict=True):
        writer.writerow([item.path, reference, item.text, f"{item.confidence:.4f}"])
    write_whole(path, text.getvalue())
