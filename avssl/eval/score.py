"""Figures of frozen features: linear probe and nearest neighbours, on a split or over folds.

Letters: N clips fitted to, M clips scored, D width, C classes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.errors import UserError
from avssl.eval.clips import EvalClips, Part
from avssl.eval.features import Features
from avssl.eval.metrics import (
    confusion,
    linear_probe,
    neighbour_votes,
    top_k,
)
from avssl.eval.multilabel import TOGETHER, average_precisions, multilabel_probe
from avssl.eval.probes import join

Fit = Literal["linear", "knn"]


@dataclass(frozen=True)
class Score:
    """Figures of one kind of features.

    Attributes:
        figures: "top1" and "top5" (shares of clips), or "mAP"; means over the folds.
        spread: standard deviation of each over the folds (n - 1); empty for one split.
        folds: the figures of each fold; empty for one split.
        chance, majority: of each figure, a guess, and the answer that never changes: of the classes
            that were fitted to, the most frequent among the scored clips, or equal scores for all.
        fitted, scored: clips; over the folds, a mean and the sum.
        unknown: scored clips of classes that no clip was fitted to; over the folds, the sum.
        per_class: accuracy or average precision of each class, NaN for one without clips.
        clips: scored clips of each class.
        confusion: counts, row the true class; None for several labels a clip.
    """

    figures: dict[str, float]
    spread: dict[str, float]
    folds: dict[str, dict[str, float]]
    chance: dict[str, float]
    majority: dict[str, float]
    fitted: int
    scored: int
    unknown: int
    per_class: list[float]
    clips: list[int]
    confusion: list[list[int]] | None


def never_right(unknown: int, scored: int) -> str:
    """What to say of scored clips whose classes are none of those that were learned."""
    return (
        f"{unknown} of {scored} scored clips are of classes that no clip was fitted to: no answer "
        "to them can be right"
    )


def score(
    features: Features,
    names: Sequence[str],
    clips: EvalClips,
    *,
    fit: Fit,
    multi_label: bool,
    progress: Callable[[], None],
) -> Score:
    """Fit and score in each part of `clips`, on the vectors called `names` side by side.

    progress: called after each of `fits` steps.

    Raises:
        UserError: a part without usable clips, or that fits to no class of the clips it scores.
    """
    x = join(features, names, unit=fit == "knn")
    position = {row: i for i, row in enumerate(features.clips.tolist())}
    parts: list[Score] = []
    for part in clips.parts:
        fitted = [position[row] for row in part.fit if row in position]
        scored = [position[row] for row in part.score if row in position]
        for side, rows in (("fitted to", fitted), ("scored", scored)):
            if not rows:
                raise UserError(f"{part.name}: not one of the clips to be {side} can be used")
        y = clips.targets[features.clips]  # [clips, C]
        known = y[fitted].any(0)  # [C]
        unknown = len(scored) - int(y[scored][:, known].any(1).sum())
        if unknown == len(scored):
            raise UserError(_nothing_in_common(part.name, y[fitted], y[scored], clips.classes))
        if fit == "knn":
            scores = neighbour_votes(x[scored], y[fitted], bank=x[fitted])
        elif multi_label:
            scores = multilabel_probe(x[fitted], y[fitted], x[scored], progress=progress)
        else:
            labels = features.labels
            scores = linear_probe(x[fitted], labels[fitted], x[scored], labels[scored]).scores
            missing = y.shape[1] - scores.shape[1]  # classes behind the last that occurs here
            scores = F.pad(scores, (0, missing), value=-torch.inf)
        measure = _several if multi_label else _single
        parts.append(measure(y[scored], scores, known, len(fitted), unknown))
        if not (multi_label and fit == "linear"):
            progress()
    return parts[0] if len(parts) == 1 else _over_folds(parts, clips.parts)


def fits(clips: EvalClips, *, fit: Fit, multi_label: bool) -> int:
    """Steps of one `score`."""
    groups = math.ceil(len(clips.classes) / TOGETHER) if multi_label and fit == "linear" else 1
    return groups * len(clips.parts)


def _nothing_in_common(part: str, fitted: Tensor, scored: Tensor, classes: Sequence[str]) -> str:
    """That no class of `fitted` [N, C] is one of `scored` [M, C]."""

    def some(y: Tensor) -> str:
        names = [name for name, used in zip(classes, y.any(0).tolist(), strict=True) if used]
        return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")

    return (
        f"{part}: none of its {len(scored)} scored clips is of a class that was fitted to (fitted "
        f"to {some(fitted)}; scored {some(scored)}): each class needs clips on both sides, see the "
        "columns 'label' and 'split' or that of the folds"
    )


def _single(y: Tensor, scores: Tensor, known: Tensor, fitted: int, unknown: int) -> Score:
    """One label a clip. y, scores: [M, C]; known: [C]."""
    labels, predictions = y.argmax(1), scores.argmax(1)
    classes = y.shape[1]
    count = y.sum(0)  # [C]
    share = (count * known).sort(descending=True).values / len(y)
    table = confusion(labels, predictions, classes=classes)
    right = torch.from_numpy(table).diagonal().double()
    return Score(
        figures={"top1": top_k(scores, labels, 1), "top5": top_k(scores, labels, 5)},
        spread={},
        folds={},
        chance={"top1": 1 / classes, "top5": min(1.0, 5 / classes)},
        majority={"top1": share[0].item(), "top5": share[:5].sum().item()},
        fitted=fitted,
        scored=len(y),
        unknown=unknown,
        per_class=(right / count).tolist(),
        clips=count.long().tolist(),
        confusion=table.tolist(),
    )


def _several(y: Tensor, scores: Tensor, known: Tensor, fitted: int, unknown: int) -> Score:
    """Several labels a clip. y, scores: [M, C]; known: [C]."""
    precision = average_precisions(y, scores)  # [C]
    share = y.mean(0)[y.any(0)].mean().item()  # what equal scores get
    return Score(
        figures={"mAP": precision.nanmean().item()},
        spread={},
        folds={},
        chance={"mAP": share},
        majority={"mAP": share},
        fitted=fitted,
        scored=len(y),
        unknown=unknown,
        per_class=precision.tolist(),
        clips=y.sum(0).long().tolist(),
        confusion=None,
    )


def _over_folds(scores: Sequence[Score], parts: Sequence[Part]) -> Score:
    """Means over the folds; classes by all scored clips together, average precision by its mean."""
    figures = {name: [one.figures[name] for one in scores] for name in scores[0].figures}
    counts = torch.tensor([one.clips for one in scores])  # [folds, C]
    tables = [torch.tensor(one.confusion) for one in scores if one.confusion is not None]
    if tables:
        total = torch.stack(tables).sum(0)
        per_class, table = (total.diagonal() / total.sum(1)).tolist(), total.tolist()
    else:
        per_class, table = torch.tensor([one.per_class for one in scores]).nanmean(0).tolist(), None

    def mean(values: Sequence[dict[str, float]]) -> dict[str, float]:
        return {name: statistics.fmean(one[name] for one in values) for name in values[0]}

    return Score(
        figures=mean([one.figures for one in scores]),
        spread={name: statistics.stdev(values) for name, values in figures.items()},
        folds={part.name: one.figures for part, one in zip(parts, scores, strict=True)},
        chance=mean([one.chance for one in scores]),
        majority=mean([one.majority for one in scores]),
        fitted=round(statistics.fmean(one.fitted for one in scores)),
        scored=sum(one.scored for one in scores),
        unknown=sum(one.unknown for one in scores),
        per_class=per_class,
        clips=counts.sum(0).tolist(),
        confusion=table,
    )
