"""Measures of features: retrieval, nearest neighbours, RankMe and a linear probe.

All are deterministic, and none is flattered by ties: a collapsed model scores chance or worse.
Letters: N clips, D width, M clips of another set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.errors import UserError

if TYPE_CHECKING:
    import numpy as np

TIE = 1e-9  # cosines closer than this count as equal: the difference is rounding
CHUNK = 1024  # queries compared at a time: 100,000 clips against as many take 0.8 GB
PROBE_C = 0.1  # inverse strength of the L2 penalty of every linear probe; never tuned


@dataclass(frozen=True)
class Retrieval:
    """One direction of retrieval among `clips` pairs; recalls are shares in 0..1."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    clips: int

    @property
    def chance(self) -> float:
        """R@1 of a random order."""
        return 1 / self.clips


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of a [N, D] with each row of b [M, D], float64 [N, M]."""
    return F.normalize(a.double(), dim=1) @ F.normalize(b.double(), dim=1).T


def ranks(similarity: Tensor, first: int = 0) -> Tensor:
    """Rank of the partner of each query, int64 [N], 1 is best.

    similarity: [N, M], row i the query, column `first` + i its partner. Whatever is at least as
    similar as the partner (up to rounding) ranks above it, so equal features rank last and not
    first.
    """
    own = similarity.diagonal(first).unsqueeze(1)  # [N, 1]
    return (~(similarity < own - TIE)).sum(1)  # a NaN ranks last as well


def retrieval(queries: Tensor, targets: Tensor) -> Retrieval:
    """Finds row i of `targets` [N, D] by row i of `queries` [N, D], by cosine."""
    if queries.shape != targets.shape:
        raise UserError(
            f"retrieval needs two towers of equal width, found {list(queries.shape)} and "
            f"{list(targets.shape)}: probe ports of one width"
        )
    rank = torch.cat(
        [
            ranks(cosine(rows, targets), first)
            for first, rows in zip(range(0, len(queries), CHUNK), queries.split(CHUNK), strict=True)
        ]
    )

    def recall(k: int) -> float:
        return (rank <= k).double().mean().item()

    median = rank.double().quantile(0.5).item()  # mean of the middle two where N is even
    return Retrieval(recall(1), recall(5), recall(10), median, len(rank))


def knn(
    features: Tensor,
    labels: Tensor,
    *,
    bank: Tensor | None = None,
    bank_labels: Tensor | None = None,
    k: int = 20,
    temperature: float | None = 0.07,
) -> float:
    """Accuracy of the vote of the k nearest neighbours by cosine.

    features: [N, D] with labels [N]. bank: [M, D] with bank_labels [M], the neighbours to vote;
    without it each clip is classified by the others (leave one out). temperature: a neighbour
    weighs exp(cosine / temperature) (Wu et al. 2018), None gives each one vote. Equal votes go to
    the lowest class. k is capped at the number of neighbours there are.
    """
    votes_of = labels if bank is None or bank_labels is None else bank_labels
    classes = int(torch.cat([labels, votes_of]).max()) + 1
    targets = F.one_hot(votes_of, classes).double()  # [M, classes]
    votes = neighbour_votes(features, targets, bank=bank, k=k, temperature=temperature)
    return (votes.argmax(1) == labels).double().mean().item()


def neighbour_votes(
    features: Tensor,
    targets: Tensor,
    *,
    bank: Tensor | None = None,
    k: int = 20,
    temperature: float | None = 0.07,
) -> Tensor:
    """Votes of the k nearest neighbours for each class, as `knn` counts them: float64 [N, C].

    features: [N, D]. targets: float64 [M, C], the classes of each clip of `bank` [M, D], or of
    `features` themselves where there is no bank; a clip may be of several classes.
    """
    others = features if bank is None else bank  # [M, D]
    k = min(k, len(others) - (bank is None))
    if k < 1:
        raise UserError(f"kNN needs at least two labelled clips, found {len(features)}")
    found = []
    for first in range(0, len(features), CHUNK):
        similarity = cosine(features[first : first + CHUNK], others)  # [N', M]
        if bank is None:
            similarity.diagonal(first).fill_(-torch.inf)
        nearest, order = similarity.topk(k, dim=1)  # [N', k]
        weight = torch.ones_like(nearest) if temperature is None else (nearest / temperature).exp()
        votes = torch.zeros(len(similarity), targets.shape[1], dtype=torch.float64)
        for i in range(k):
            votes += weight[:, i : i + 1] * targets[order[:, i]]
        found.append(votes)
    return torch.cat(found)


def top_k(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of clips whose class is among the k with the highest scores.

    scores: [N, C]; labels: [N]. Equal scores count in the order of the classes, whatever the label,
    as in `argmax`.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]  # [N, k]
    return (order == labels.unsqueeze(1)).any(1).double().mean().item()


def rankme(features: Tensor) -> float:
    """Effective rank of features [N, D], from 1 (collapsed) to min(N, D).

    exp of the entropy of the singular values' shares, eq. 1 and 2 of Garrido et al. 2023 (RankMe,
    arXiv 2210.02885); the features are neither centred nor scaled.
    """
    sigma = torch.linalg.svdvals(features.double())
    share = sigma / sigma.sum().clamp_min(1e-12) + 1e-7
    return (-(share * share.log()).sum()).exp().item()


@dataclass(frozen=True)
class Probe:
    """Result of a linear probe. predictions: int64 [M], one per test clip. scores: log probability
    of each class, float64 [M, C]; -inf for classes that the train split does not have."""

    accuracy: float
    predictions: Tensor  # [M]
    scores: Tensor  # [M, C]


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, c: float = PROBE_C
) -> Probe:
    """Logistic regression on frozen features: fitted to `train` [N, D], scored on `test` [M, D].

    Features are standardised with the mean and deviation of the train split. The penalty is fixed
    at C = 0.1 for every model, so nothing is chosen by looking at the test split, which is read
    once. Labels are int64, no -1 (see `Features.labelled`).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(train) == 0 or len(test) == 0:
        raise UserError(
            f"a linear probe needs labelled clips in two splits, found {len(train)} to train on "
            f"and {len(test)} to test on: add labels to the manifest or leave the probe out"
        )
    if len(train_labels.unique()) < 2:
        raise UserError("a linear probe needs at least two classes, found one in the train split")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
    model.fit(train.double().numpy(), train_labels.numpy())
    x = test.double().numpy()
    predictions = torch.from_numpy(model.predict(x))
    classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    scores = torch.full((len(test), classes), -torch.inf, dtype=torch.float64)
    scores[:, torch.from_numpy(model.classes_)] = torch.from_numpy(model.predict_log_proba(x))
    return Probe(
        accuracy=(predictions == test_labels).double().mean().item(),
        predictions=predictions,
        scores=scores,
    )


def confusion(labels: Tensor, predictions: Tensor, *, classes: int) -> np.ndarray[Any, Any]:
    """Counts [classes, classes]: row the true class, column the predicted one."""
    from sklearn.metrics import confusion_matrix

    counts: np.ndarray[Any, Any] = confusion_matrix(
        labels.numpy(), predictions.numpy(), labels=list(range(classes))
    )
    return counts
