"""The clips of an evaluation: their labels, and which are fitted to and which are scored.

Letters: R rows of the manifest, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from avssl.data.config import DataConfig
from avssl.data.labels import SEPARATOR, LabelFiles, Listing, labels_of, place_segments
from avssl.data.manifest import SPLITS, Clip, Manifest
from avssl.data.source import open_source, scanned
from avssl.errors import UserError
from avssl.eval.sides import on_both, rows_of_folds
from avssl.files import cache_folder


@dataclass(frozen=True)
class Part:
    """One fit and its score: rows of the manifest. name: of the split or fold that is scored."""

    name: str
    fit: list[int]
    score: list[int]


@dataclass(frozen=True)
class EvalClips:
    """A scanned manifest with what an evaluation needs of it.

    Attributes:
        classes: names in the order of their numbers.
        labels: int64 [R], -1 where a clip has none or several.
        targets: float64 [R, C], 1 for each label of a clip.
        parts: what is fitted to and scored, one for each fold.
        missing: listed clips without a file.
        notes: what to tell of the clips that are not used, one line each.
    """

    manifest: Manifest
    classes: list[str]
    labels: Tensor  # [R]
    targets: Tensor  # [R, C]
    parts: list[Part]
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[int]:
        """Every row that some part reads."""
        return sorted({row for part in self.parts for row in (*part.fit, *part.score)})


def open_manifest(data: DataConfig, labels: LabelFiles | None) -> tuple[Manifest, Listing | None]:
    """The scanned clips of `data.source`, with the labels of published files where given."""
    if labels is None:
        return open_source(data), None
    folder = Path(data.source).expanduser()
    listing = labels.read(folder)
    print(listing.describe(), flush=True)
    manifest = scanned(listing.manifest, data.source, cache_folder(data.cache))
    placed = Manifest(manifest.root, place_segments(manifest.clips))
    return placed.with_splits(), listing


def open_clips(
    data: DataConfig,
    *,
    labels: LabelFiles | None = None,
    multi_label: bool = False,
    fit: str | None = "train",
    score: str = "test",
    folds: str | None = None,
) -> EvalClips:
    """The clips that a task reads.

    Args:
        multi_label: take labels apart at ";".
        fit: split to fit to; None for a task that fits nothing and needs no labels.
        score: split to score; "all" for every clip, where nothing is fitted.
        folds: a column of the manifest; each of its values is scored once, by what is fitted to
            all others, and the splits do not count.

    Raises:
        UserError: no labels, one class, a clip on both sides, or no such column.
    """
    manifest, listing = open_manifest(data, labels)
    clips, notes = manifest.clips, []
    if not multi_label:
        _one_label_each(manifest, needed=fit is not None)
    split_up = [labels_of(clip) if multi_label else [clip.label] for clip in clips]
    split_up = [[name for name in names if name] for names in split_up]
    if folds is not None:
        parts = _folds(manifest, folds)
    else:
        fitted = _split(manifest, fit) if fit is not None else []
        parts = [Part(score, fitted, _split(manifest, score))]
    if fit is not None:
        used = {row for part in parts for row in (*part.fit, *part.score)}
        bare = {row for row in used if not split_up[row]}
        if bare:
            notes.append(f"{len(bare)} clips have no label, such as {clips[min(bare)].path}")
        parts = [
            Part(part.name, [i for i in part.fit if i not in bare],
                 [i for i in part.score if i not in bare])
            for part in parts
        ]  # fmt: skip
    names = {name for part in parts for i in (*part.fit, *part.score) for name in split_up[i]}
    classes = Manifest(manifest.root, [Clip("", label=name) for name in names]).classes()
    if fit is not None:
        _check(manifest, parts, classes)
        if folds is None:
            notes += _unused_folds(manifest, parts[0])
    number = {name: i for i, name in enumerate(classes)}
    targets = torch.zeros(len(clips), len(classes), dtype=torch.float64)
    numbers = torch.full((len(clips),), -1)
    for row, found in enumerate(split_up):
        known = [number[name] for name in found if name in number]
        targets[row, known] = 1
        if len(known) == 1:
            numbers[row] = known[0]
    missing = listing.missing if listing else []
    return EvalClips(manifest, classes, numbers, targets, parts, missing, notes)


def _one_label_each(manifest: Manifest, *, needed: bool) -> None:
    several = [clip for clip in manifest.clips if SEPARATOR in clip.label]
    if needed and several:
        raise UserError(
            f"{len(several)} clips in {manifest.root} have several labels separated by "
            f"'{SEPARATOR}', the first is {several[0].path}: pass --multi-label"
        )


def _folds(manifest: Manifest, column: str) -> list[Part]:
    found = rows_of_folds(manifest, column, otherwise="leave --folds out and use splits")
    every = set(range(len(manifest.clips)))
    return [Part(f"fold {name}", sorted(every - set(rows)), rows) for name, rows in found.items()]


def _unused_folds(manifest: Manifest, part: Part) -> list[str]:
    """A line where the clips have folds (as ESC's do) and only a split of them is scored."""
    folds = {clip.extra.get("fold", "").strip() for clip in manifest.clips} - {""}
    scored = {manifest.clips[row].extra.get("fold", "").strip() for row in part.score} - {""}
    if len(folds) < 2 or len(scored) in (0, len(folds)):
        return []
    return [
        f"of {len(folds)} folds, fold {', '.join(sorted(scored))} alone is scored (the split "
        f"{part.name}): --folds scores each"
    ]


def _check(manifest: Manifest, parts: Sequence[Part], classes: Sequence[str]) -> None:
    """Labels enough on both sides, and no clip on both."""
    if not classes:
        raise UserError(
            f"no clip in {manifest.root} has a label: fill the column 'label' of the manifest, or "
            "name label files with --labels and --format"
        )
    if len(classes) == 1:
        raise UserError(
            f"all labelled clips in {manifest.root} are of one class, {classes[0]!r}: there is "
            "nothing to tell apart"
        )
    for part in parts:
        for side, rows in (("fitted to", part.fit), ("scored", part.score)):
            if not rows:
                raise UserError(
                    f"{part.name}: no labelled clip in {manifest.root} is left to be {side}; see "
                    "the column 'label'"
                )
        both = on_both(manifest, part.fit, part.score)
        if both:
            raise UserError(
                f"{len(both)} clips are fitted to and scored in {part.name} (the same stretch of "
                f"the same file in two rows), the first is {both[0]}: take them out of one side"
            )


def _split(manifest: Manifest, name: str) -> list[int]:
    """Rows of a split; of every clip for "all"."""
    rows = [i for i, clip in enumerate(manifest.clips) if name in ("all", clip.split)]
    if rows:
        return rows
    counts = {known: sum(clip.split == known for clip in manifest.clips) for known in SPLITS}
    raise UserError(
        f"no clip in {manifest.root} is in the split '{name}' (it has "
        f"{', '.join(f'{known} {count}' for known, count in counts.items())}): fill the column "
        "'split' of the manifest, or choose others with --split and --fit"
    )


def plain_name(name: str) -> str:
    """A class or encoder name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name)
