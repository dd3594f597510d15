"""Probes: what the towers of a graph know, cheaply during training and in full at the end.

During training the val split answers; the test split is read by `final_evaluation` only, and
nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avssl.errors import UserError
from avssl.eval.features import Features, embed, embed_each
from avssl.eval.metrics import Retrieval, confusion, knn, linear_probe, rankme, retrieval

SUBSET = 200  # test clips of the second retrieval figure: chance R@1 is 0.5 % whatever the corpus

Loader = Iterable[Mapping[str, Any]]


class ProbeConfig(Protocol):
    """What the probes read of a run's `probe:` section."""

    @property
    def towers(self) -> Mapping[str, str]:
        """Batch input -> "module.port", a port of shape [B, D]."""

    @property
    def clips(self) -> int:
        """Val clips of an online probe."""


@dataclass(frozen=True)
class Evaluation:
    """Final figures of one model on the test split.

    retrieval: "audio_to_video" -> figures among all test clips; retrieval_subset: among 200 of
    them, drawn once and for all. linear, knn: input name or "both" -> accuracy; confusion: counts
    of the linear probe, row the true class. rankme: input name -> effective rank. Dicts are empty
    where the towers or the labels do not allow the figure.
    """

    clips: int
    train_clips: int
    classes: int
    majority: float  # accuracy of always saying the most frequent class of the test split
    retrieval: dict[str, Retrieval]
    retrieval_subset: dict[str, Retrieval]
    linear: dict[str, float]
    confusion: dict[str, list[list[int]]]
    knn: dict[str, float]
    rankme: dict[str, float]


def probe(graph: nn.Module, config: ProbeConfig, loaders: Mapping[str, Loader]) -> dict[str, float]:
    """Figures for every N training steps, from the first `config.clips` clips of loaders["val"].

    Keys: "retrieval/audio_to_video_r1", "retrieval/audio_to_video_median" and the way back,
    "knn/audio" (leave one out, 20 neighbours), "rankme/audio", and so on for each tower.
    """
    features = embed(
        graph, config.towers, loaders["val"], device=_device(graph), clips=config.clips
    )
    figures: dict[str, float] = {}
    for name, found in retrievals(features).items():
        figures[f"retrieval/{name}_r1"] = found.r1
        figures[f"retrieval/{name}_median"] = found.median_rank
    labelled = features.labelled()
    for name, x in features.vectors.items():
        if len(labelled) > 1:
            figures[f"knn/{name}"] = knn(labelled[name], labelled.labels)
        figures[f"rankme/{name}"] = rankme(x)
    return figures


def final_evaluation(
    graphs: Mapping[str, nn.Module], config: ProbeConfig, loaders: Mapping[str, Loader]
) -> dict[str, tuple[Evaluation, Features]]:
    """The figures of the final table, and the test features (for the similarity picture).

    graphs: name of a model -> its graph, or the towers of it. loaders: "train", whose clips fit
    the linear probe and vote in kNN, and "test"; both without augmentation, each clip once, and
    read once for all models.
    """
    missing = {"train", "test"} - set(loaders)
    if missing:
        raise UserError(f"the final evaluation needs the splits train and test, missing: {missing}")
    device = _device(next(iter(graphs.values())))
    train = embed_each(graphs, config.towers, loaders["train"], device=device)
    test = embed_each(graphs, config.towers, loaders["test"], device=device)
    return {name: (evaluate(train[name], test[name]), test[name]) for name in graphs}


def evaluate(train: Features, test: Features) -> Evaluation:
    """The figures of the final table from the features of two splits."""
    both = set(train.clips.tolist()) & set(test.clips.tolist())
    if both:
        raise UserError(
            f"{len(both)} clips are in the train and in the test split, the first is row "
            f"{min(both)} of the manifest: a probe would be tested on what it was fitted to"
        )
    fit, score = train.labelled(), test.labelled()
    linear: dict[str, float] = {}
    counts: dict[str, list[list[int]]] = {}
    nearest: dict[str, float] = {}
    classes = int(torch.cat([fit.labels, score.labels, torch.tensor([-1])]).max()) + 1
    if len(fit.labels.unique()) > 1 and len(score):
        for name, towers in _subjects(test).items():
            a, b = join(fit, towers), join(score, towers)
            fitted = linear_probe(a, fit.labels, b, score.labels)
            linear[name] = fitted.accuracy
            table = confusion(score.labels, fitted.predictions, classes=classes)
            counts[name] = table.tolist()
            a, b = join(fit, towers, unit=True), join(score, towers, unit=True)
            nearest[name] = knn(b, score.labels, bank=a, bank_labels=fit.labels)
    largest = score.labels.bincount().max().item() if len(score) else 0
    return Evaluation(
        clips=len(test),
        train_clips=len(train),
        classes=len(torch.cat([fit.labels, score.labels]).unique()),
        majority=largest / max(1, len(score)),
        retrieval=retrievals(test),
        retrieval_subset=retrievals(test.draw(SUBSET)),
        linear=linear,
        confusion=counts,
        knn=nearest,
        rankme={name: rankme(x) for name, x in test.vectors.items()},
    )


def retrievals(features: Features) -> dict[str, Retrieval]:
    """Retrieval both ways between each pair of towers of equal width: "a_to_b" -> figures."""
    return {
        f"{a}_to_{b}": retrieval(x, y)
        for a, x in features.vectors.items()
        for b, y in features.vectors.items()
        if a != b and x.shape == y.shape
    }


def _subjects(features: Features) -> dict[str, list[str]]:
    """What is probed -> the towers it is made of."""
    names = list(features.vectors)
    return {name: [name] for name in names} | ({"both": names} if len(names) == 2 else {})


def join(features: Features, names: Sequence[str], *, unit: bool = False) -> Tensor:
    """The vectors of these towers side by side, [N, sum of D]; `unit` gives each equal say."""
    vectors = [features[name] for name in names]
    if unit:
        vectors = [F.normalize(x, dim=1) for x in vectors]
    return torch.cat(vectors, dim=1)


def _device(graph: nn.Module) -> torch.device:
    return next(graph.parameters()).device
