"""Clips with several labels: a one-vs-rest linear probe and average precision.

Letters: N clips to fit, M clips to score, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from avssl.errors import UserError
from avssl.eval.metrics import PROBE_C

TOGETHER = 64  # classes fitted at a time
_ITERATIONS = 1000  # of L-BFGS; some hundred suffice


def multilabel_probe(
    train: Tensor,
    train_targets: Tensor,
    test: Tensor,
    *,
    c: float = PROBE_C,
    progress: Callable[[], None] = lambda: None,
) -> Tensor:
    """Scores of the classes by one logistic regression for each, float64 [M, C].

    Features are standardised as in `linear_probe`, and each class has that probe's objective,
    binary cross-entropy with an L2 penalty at C = 0.1.

    Args:
        train: [N, D]. train_targets: [N, C] of 0 and 1. test: [M, D].
        progress: called after each `TOGETHER` classes.
    """
    if len(train) == 0 or len(test) == 0:
        raise UserError(
            f"a linear probe needs labelled clips in two splits, found {len(train)} to train on "
            f"and {len(test)} to test on: add labels to the manifest or leave the probe out"
        )
    x = train.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    x, z = (x - mean) / deviation, (test.double() - mean) / deviation  # [N, D], [M, D]
    scores = []
    for y in train_targets.double().split(TOGETHER, dim=1):
        weight, bias = _fit(x, y, c)
        scores.append(z @ weight + bias)
        progress()
    return torch.cat(scores, dim=1)


def _fit(x: Tensor, y: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Weights [D, C] and biases [C] of C regressions, which share nothing and are minimised
    together. x: [N, D]; y: [N, C]."""
    weight = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(y.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(x @ weight + bias, y, reduction="sum")
        loss = (entropy + weight.square().sum() / (2 * c)) / len(x)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    return weight.detach(), bias.detach()


def average_precisions(targets: Tensor, scores: Tensor) -> Tensor:
    """Average precision of each class, float64 [C]; NaN for classes that no clip has.

    targets: [M, C] of 0 and 1; scores: [M, C]. Equal scores are one threshold, so that a model that
    says the same of all clips gets the share of the class.
    """
    from sklearn.metrics import average_precision_score

    found = torch.full((targets.shape[1],), torch.nan, dtype=torch.float64)
    for i in targets.any(0).nonzero().flatten().tolist():
        found[i] = float(average_precision_score(targets[:, i].numpy(), scores[:, i].numpy()))
    return found
