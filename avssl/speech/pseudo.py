"""Pseudo-labels: a recogniser's own transcripts of unlabelled clips, to train the next one on.

Round 2 begins from the same pre-trained weights as round 1 and takes as many epochs, of more clips.
Its data is a manifest of its own, in `<run>-round2-data/`, beside links to the folders of both
sources.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from avssl.data.config import DataConfig
from avssl.data.manifest import Clip, Manifest, below
from avssl.data.source import open_source
from avssl.data.usable import by_reason, in_share, nothing_usable
from avssl.errors import UserError
from avssl.files import write_whole
from avssl.speech.job import (
    Job,
    finetune,
    prepare,
    reading_config,
    reading_device,
    scoring_config,
)
from avssl.speech.reader import FOLDER, UNITS, Reader
from avssl.speech.transcripts import Reading, Task, WholeClips, transcribe_clips

ROUND = "-round2"
LABELLED, PSEUDO = "labelled", "pseudo"  # links to the folders of the sources


@dataclass(frozen=True)
class Counts:
    """What became of unlabelled clips.

    Attributes:
        kept: above the confidence. unsure: below it. empty: nothing was read in them.
        unreadable: with no picture or sound, damaged, or longer than the reader was trained for.
        held: left alone, for they overlap labelled clips of the run, or its val and test splits.
    """

    kept: int
    unsure: int
    empty: int
    unreadable: int
    held: int

    def __str__(self) -> str:
        return (
            f"{self.kept} kept, {self.unsure} dropped for their confidence, {self.empty} for "
            f"nothing was read, {self.unreadable} unreadable or too long, {self.held} left alone "
            "(labelled or held out)"
        )


def second_round(
    path: Path, overrides: Sequence[str], *, source: str, min_confidence: float
) -> int:
    """Finish round 1, label the clips of `source` by it, and train round 2 on both.

    Args:
        path, overrides: as of `finetune`, of round 1.
        source: unlabelled clips: a folder, a manifest or corpus:NAME. Its transcripts are not read.
        min_confidence: of a transcript that is kept, 0 to 1.

    Returns:
        As `finetune`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "--pseudo-label labels in one process: run round 1 under torchrun without this option, "
            "then the same command with it and without torchrun; it prints the command for round "
            "2, which runs in as many processes as you like"
        )
    job = prepare(path, overrides)
    second = Path(f"{job.run}{ROUND}")
    # before the training: it may not be there, or hold nothing to label
    _refuse_other_source(second, _unlabelled(job, source)[1])
    code = finetune(path, overrides)
    if code:
        return code
    manifest = pseudo_manifest(job, source, second, min_confidence)
    places = {"run": second, "data.source": manifest}
    again = [f"{key}={json.dumps(str(value))}" for key, value in places.items()]
    again = [*overrides, *again, "data.train_share=1.0", "data.only=null"]
    print(f"round 2: tools/finetune.py {shlex.join([str(path), *again])}", flush=True)
    if job.units.model is not None:
        second.mkdir(parents=True, exist_ok=True)
        (second / UNITS).write_bytes(job.units.model)  # those of round 1
    return finetune(path, again)


def pseudo_manifest(job: Job, source: str, second: Path, min_confidence: float) -> Path:
    """Label the clips of a source, and write a manifest of labelled and pseudo-labelled clips.

    Args:
        second: run folder of round 2; the manifest is written to `<second>-data/`.

    Raises:
        UserError: the source cannot be opened, no clip is kept, or round 2 has begun on others.
    """
    folder = _data_folder(second)
    data = job.experiment.config.data
    labelled, unlabelled, rows = _unlabelled(job, source)
    reader = Reader.load(job.run / FOLDER, reading_device(job))
    reading = reading_config(replace(data, source=source), reader)
    task = Task(f"labelling {source}", reader, reader.settings, unlabelled, rows, reading)
    found = transcribe_clips(task, folder / "transcripts.jsonl")
    kept = [item for item in found if item.text and item.confidence >= min_confidence]
    read = [item for item in found if not item.failure]
    empty = sum(not item.text for item in read)
    counts = Counts(
        kept=len(kept),
        unsure=len(read) - empty - len(kept),
        empty=empty,
        unreadable=len(found) - len(read),
        held=len(unlabelled.clips) - len(rows),
    )
    print(f"{source}: {counts}", flush=True)
    unreadable = [(item.path, item.failure) for item in found if item.failure]
    if unreadable:
        print(f"unreadable: {by_reason(unreadable)}", flush=True)
    if not read:
        raise UserError(f"none of the {len(found)} clips of {source} can be read")
    if empty == len(read):
        raise UserError(
            f"nothing was read in any of the {empty} clips of {source}: train longer first, or "
            "look whether they are like those that are labelled"
        )
    if not kept:
        best = max(item.confidence for item in read if item.text)
        raise UserError(
            f"no clip of {source} is kept at a confidence of {min_confidence:g} (the highest is "
            f"{best:.2f}): lower --min-confidence, or train longer first"
        )
    return _write(second, labelled, unlabelled, kept, data)


def _data_folder(second: Path) -> Path:
    """Where the data of round 2 are."""
    return Path(f"{second}-data")


def _begun(second: Path) -> bool:
    """Whether round 2 has trained on the manifest that is there."""
    return (second / "config.yaml").is_file() and (_data_folder(second) / "manifest.csv").is_file()


def _refuse_other_source(second: Path, unlabelled: Manifest) -> None:
    """Raise UserError where round 2 has begun on the clips of another folder."""
    link = _data_folder(second) / PSEUDO
    if _begun(second) and os.path.realpath(link) != os.path.realpath(unlabelled.root):
        raise UserError(_other_labels(second, f"clips of {os.path.realpath(link)}"))


def _other_labels(second: Path, what: str) -> str:
    return (
        f"{second} was trained on {what}, which would be replaced: repeat the options of then, "
        f"give another run folder with run=..., or remove {second} and {_data_folder(second)}"
    )


def _unlabelled(job: Job, source: str) -> tuple[Manifest, Manifest, list[int]]:
    """The clips of the run, those of a source, and the rows of these that are read.

    Raises:
        UserError: the source cannot be opened, or has none that can be read.
    """
    data = job.experiment.config.data
    labelled, unlabelled = open_source(data), open_source(replace(data, source=source, only=None))
    rows = _to_read(labelled, unlabelled, data)
    if not rows:
        raise UserError(
            f"{source} has no clip to label: all {len(unlabelled.clips)} are labelled clips of the "
            "run, or held out (val and test)"
        )
    check = WholeClips(scoring_config(data))
    reasons = [(unlabelled.clips[row].path, check.reason(unlabelled.clips[row])) for row in rows]
    if all(reason for _, reason in reasons):
        raise UserError(nothing_usable(unlabelled, None, reasons))
    return labelled, unlabelled, rows


def _to_read(labelled: Manifest, unlabelled: Manifest, data: DataConfig) -> list[int]:
    """Rows of unlabelled clips: not those that overlap labelled clips of the run or its val and
    test clips, and not val and test clips of the source itself where it names splits."""
    taken: dict[str, list[tuple[float, float]]] = {}
    for clip in labelled.clips:
        if _has_part(clip, data):
            for file in _files(labelled, clip):
                taken.setdefault(file, []).append(_times(clip))

    def free(clip: Clip) -> bool:
        start, end = _times(clip)
        return not any(
            start < other_end and other_start < end
            for file in _files(unlabelled, clip)
            for other_start, other_end in taken.get(file, ())
        )

    return [
        row
        for row, clip in enumerate(unlabelled.clips)
        if (clip.split == "train" or unlabelled.split_by_path) and free(clip)
    ]


def _has_part(clip: Clip, data: DataConfig) -> bool:
    """Whether a clip of the run is held out, or labelled and trained on."""
    labelled = bool(clip.text.strip()) and in_share(clip.path, data.train_share)
    return clip.split != "train" or labelled


def _files(manifest: Manifest, clip: Clip) -> set[str]:
    return {os.path.realpath(manifest.root / path) for path in (clip.path, clip.sound_path)}


def _times(clip: Clip) -> tuple[float, float]:
    """First and last second of a clip in its file."""
    return clip.start or 0.0, math.inf if clip.end is None else clip.end


def _write(
    second: Path,
    labelled: Manifest,
    unlabelled: Manifest,
    kept: Sequence[Reading],
    data: DataConfig,
) -> Path:
    """Write manifest.csv and the links beside it.

    Raises:
        UserError: round 2 has begun on another one.
    """
    folder = _data_folder(second)
    clips = [
        _below(LABELLED, clip, confidence="") for clip in labelled.clips if _has_part(clip, data)
    ]
    for item in kept:
        clip = replace(unlabelled.clips[item.row], text=item.text, label="", split="train")
        clips.append(_below(PSEUDO, clip, confidence=f"{item.confidence:.4f}"))
    path, text = folder / "manifest.csv", Manifest(folder, clips).text()
    if _begun(second) and path.read_text(encoding="utf-8") != text:
        raise UserError(_other_labels(second, "other pseudo-labels"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, manifest in ((LABELLED, labelled), (PSEUDO, unlabelled)):
        link = folder / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(os.path.relpath(manifest.root.resolve(), folder.resolve()))
    write_whole(path, text)
    return path


def _below(name: str, clip: Clip, *, confidence: str) -> Clip:
    """A clip as seen from the folder above the link `name`."""
    return replace(below(name, clip), extra={**clip.extra, "confidence": confidence})
