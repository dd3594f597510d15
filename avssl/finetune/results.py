"""The figures of fine-tuned classifiers: of one part, over seeds, as JSON and as a table.

Letters: N held-out clips, C classes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from avssl.eval.metrics import top_k
from avssl.eval.multilabel import average_precisions
from avssl.eval.score import never_right

FIGURES = {"top1": "top-1, %", "top5": "top-5, %", "mAP": "mAP, %"}


def measure(
    scores: Tensor, targets: Tensor, classes: Sequence[str], *, several: bool
) -> dict[str, Any]:
    """Figures of held-out clips, shares in 0..1.

    Args:
        scores, targets: [N, C].
        classes: names.
        several: clips may have several labels: mAP; else top-1 and top-5.

    Returns:
        clips, the figures, and per_class: recall or average precision; null without a clip.
    """
    if several:
        found = average_precisions(targets, scores)  # [C]
        figures = {"mAP": found[~found.isnan()].mean().item()}
        own = found.tolist()
    else:
        labels = targets.argmax(1)  # [N]
        figures = {"top1": top_k(scores, labels, 1), "top5": top_k(scores, labels, 5)}
        right = (scores.argmax(1) == labels).double()  # [N]
        own = [right[labels == c].mean().item() for c in range(len(classes))]
    counts = targets.sum(0).int().tolist()
    per_class = {
        name: {"clips": count, "figure": value if count else None}
        for name, count, value in zip(classes, counts, own, strict=True)
    }
    return {"clips": len(scores), **figures, "per_class": per_class}


def summary(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds; a seed's figure is the mean of its folds by clips."""
    names = [name for name in FIGURES if name in parts[0]]
    seeds: dict[int, list[dict[str, Any]]] = {}
    for part in parts:
        seeds.setdefault(part["seed"], []).append(part)
    result: dict[str, Any] = {}
    for name in names:
        own = {
            seed: sum(part[name] * part["clips"] for part in group)
            / sum(part["clips"] for part in group)
            for seed, group in seeds.items()
        }
        values = list(own.values())
        deviation = statistics.stdev(values) if len(values) > 1 else None
        result[name] = {
            "per_seed": {str(seed): value for seed, value in own.items()},
            "mean": statistics.fmean(values),
            "deviation": deviation,
        }
    return result


def table(results: dict[str, Any]) -> str:
    """results.md."""
    about, parts = results["about"], results["parts"]
    names = [name for name in FIGURES if name in parts[0]]
    start = "fresh weights" if about["from_scratch"] else f"weights {about['fingerprint']}"
    lines = [
        f"# {about['name']}: {about['encoder']} of {about['model']}, fine-tuned",
        "",
        f"Started from {start}. Clips: {about['source']}, {about['classes']} classes. Figures are "
        "those of the last epoch, on held-out clips that were used for nothing else.",
        "",
        "| seed | fold | trained on | held out | " + " | ".join(FIGURES[n] for n in names) + " |",
        "|---" * (4 + len(names)) + "|",
    ]
    for part in parts:
        cells = [part["seed"], part["fold"] or "-", part["train_clips"], part["clips"]]
        cells += [f"{100 * part[name]:.1f}" for name in names]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    unknown = sum(part.get("unknown", 0) for part in parts)  # which older results lack
    if unknown:
        lines += ["", never_right(unknown, sum(part["clips"] for part in parts)) + "."]
    lines += ["", "| over seeds | each | mean | deviation |", "|---|---|---|---|"]
    for name in names:
        own = results["summary"][name]
        each = " / ".join(f"{100 * value:.1f}" for value in own["per_seed"].values())
        spread = "-" if own["deviation"] is None else f"{100 * own['deviation']:.1f}"
        lines.append(f"| {FIGURES[name]} | {each} | {100 * own['mean']:.1f} | {spread} |")
    lines += ["", *_classes(parts)]
    return "\n".join(lines) + "\n"


def _classes(parts: Sequence[dict[str, Any]]) -> list[str]:
    """Each class over all parts: the mean weighted by its clips, the worst first."""
    rows = []
    for name in parts[0]["per_class"]:
        found = [part["per_class"][name] for part in parts]
        clips = sum(item["clips"] for item in found)
        if clips:
            total = sum(item["figure"] * item["clips"] for item in found if item["clips"])
            rows.append((total / clips, name, clips))
    word = "average precision" if "mAP" in parts[0] else "recall"
    lines = [f"| class | held out | {word}, % |", "|---|---|---|"]
    return lines + [
        f"| {name.replace('|', '/')} | {clips} | {100 * value:.1f} |"
        for value, name, clips in sorted(rows)
    ]
