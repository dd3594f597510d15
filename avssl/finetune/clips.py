"""The clips of a fine-tuning: which are trained on and which held out, and their targets.

Letters: C classes, M rows of the manifest.
"""

from __future__ import annotations

import dataclasses

import torch

from avssl.data.labels import labels_of
from avssl.data.manifest import Manifest
from avssl.errors import UserError
from avssl.eval.sides import refuse_both_sides, rows_in, rows_of_folds
from avssl.finetune.config import Finetune

ALL = "all"
TRAIN, HELD_OUT = "train", "test"


def folds_of(manifest: Manifest, config: Finetune) -> list[str | None]:
    """The folds to do one after the other; [None] where the split decides.

    Raises:
        UserError: the column is not there or not filled in all rows, holds one fold only, or none
        of this name.
    """
    if config.fold is None:
        return [None]
    found = rows_of_folds(
        manifest,
        config.fold_column,
        otherwise="name another one with fold_column, or leave fold out for the column 'split'",
    )
    odd = [
        text for text in found if not text.replace("-", "_").isidentifier() and not text.isdigit()
    ]
    if odd:
        raise UserError(
            f"the column {config.fold_column!r} holds {odd[0]!r}: a fold, which names a folder, "
            "is written with letters, digits, - and _"
        )
    if config.fold == ALL:
        return list(found)
    if str(config.fold) not in found:
        raise UserError(
            f"no row has {config.fold!r} in the column {config.fold_column!r}: found are "
            f"{', '.join(found)}"
        )
    return [str(config.fold)]


def with_fold(manifest: Manifest, config: Finetune, fold: str | None) -> Manifest:
    """The manifest with the splits "train" and "test" as this fold has them; other rows, and those
    without a label, have none. Rows keep their numbers.

    Raises:
        UserError: a stretch of a file is on both sides.
    """
    clips = []
    for clip in manifest.clips:
        if not labels_of(clip):
            split = ""
        elif fold is not None:
            split = HELD_OUT if clip.extra[config.fold_column].strip() == fold else TRAIN
        else:
            split = {"train": TRAIN, config.held_out: HELD_OUT}.get(clip.split, "")
        clips.append(dataclasses.replace(clip, split=split))
    found = Manifest(manifest.root, clips)
    where = "" if fold is None else f" of fold {fold}"
    refuse_both_sides(found, rows_in(found, TRAIN), rows_in(found, HELD_OUT), where=where)
    return found


class Targets:
    """What the classifier is to say of each clip.

    Attributes:
        classes: names in the order of their numbers.
        table: float32 [M, C], 1 where a clip has the class; rows without a label are 0.

    Raises:
        UserError: there are no labels, or several a clip where one is asked for.
    """

    def __init__(self, manifest: Manifest, *, several: bool) -> None:
        labels = [labels_of(clip) for clip in manifest.clips]
        names = {name for row in labels for name in row}
        if len(names) < 2:
            raise UserError(
                f"the clips in {manifest.root} have {len(names)} different labels, and a "
                "classifier needs two: give a manifest with a column 'label'"
            )
        crowded = [row for row, own in enumerate(labels) if len(own) > 1]
        if crowded and not several:
            raise UserError(
                f"{len(crowded)} clips have several labels, the first is "
                f"{manifest.clips[crowded[0]].path}: set labels=multi"
            )
        digits = all(name.isascii() and name.isdigit() for name in names)
        self.classes = sorted(names, key=int) if digits else sorted(names)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.table = torch.zeros(len(labels), len(names))
        for row, own in enumerate(labels):
            self.table[row, [numbers[name] for name in own]] = 1
