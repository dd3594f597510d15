"""The two sides of a manifest, one to learn from and one to score: its folds, and clips on both."""

from __future__ import annotations

from collections.abc import Iterable

from avssl.data.manifest import Clip, Manifest
from avssl.errors import UserError


def rows_of_folds(manifest: Manifest, column: str, *, otherwise: str) -> dict[str, list[int]]:
    """The rows of each fold, in the order of the folds' numbers or names.

    Args:
        column: a column of the manifest, filled in all rows.
        otherwise: how to do without folds, the end of a sentence.

    Raises:
        UserError: there is no such column, a row without a fold, or one fold only.
    """
    named = sorted({name for clip in manifest.clips for name in clip.extra})
    if column not in named:
        own = f"; its own columns are {', '.join(named)}" if named else ""
        raise UserError(
            f"the manifest in {manifest.root} has no column {column!r} with the fold of each "
            f"clip{own}: add it, or {otherwise}"
        )
    each = [clip.extra.get(column, "").strip() for clip in manifest.clips]
    empty = [clip.path for clip, name in zip(manifest.clips, each, strict=True) if not name]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(each)} clips in {manifest.root} have no fold in the column "
            f"{column!r}, the first is {empty[0]}: fill it in all rows"
        )
    names = sorted(set(each), key=lambda name: (int(name) if name.isdecimal() else 0, name))
    if len(names) < 2:
        raise UserError(
            f"the column {column!r} in {manifest.root} names one fold, {names[0]!r}: with one held "
            "out there is nothing to fit to"
        )
    return {name: [row for row, own in enumerate(each) if own == name] for name in names}


def rows_in(manifest: Manifest, split: str) -> list[int]:
    """The rows of a split."""
    return [row for row, clip in enumerate(manifest.clips) if clip.split == split]


def refuse_both_sides(
    manifest: Manifest, train: Iterable[int], held_out: Iterable[int], *, where: str = ""
) -> None:
    """Raise UserError where a stretch is both trained on and held out. train, held_out: rows;
    where: which held-out clips, such as " of fold 2"."""
    both = on_both(manifest, train, held_out)
    if both:
        raise UserError(
            f"{len(both)} held-out clips{where} in {manifest.root} are also trained on (the same "
            f"stretch of the same file in two rows), the first is {both[0]}: take them out of one "
            "side"
        )


def on_both(manifest: Manifest, fit: Iterable[int], score: Iterable[int]) -> list[str]:
    """Files of which a stretch is on both sides. fit, score: rows."""
    fitted: dict[str, list[tuple[float, float]]] = {}
    for row in fit:
        fitted.setdefault(manifest.clips[row].path, []).append(_stretch(manifest.clips[row]))
    found = []
    for row in score:
        clip = manifest.clips[row]
        start, end = _stretch(clip)
        if any(start < b and a < end for a, b in fitted.get(clip.path, [])):
            found.append(clip.path)
    return found


def _stretch(clip: Clip) -> tuple[float, float]:
    end = float("inf") if clip.end is None else clip.end
    return clip.start or 0.0, end
