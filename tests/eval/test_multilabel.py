"""Several labels a clip: against scikit-learn, and by hand."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from avssl.errors import UserError
from avssl.eval.multilabel import average_precisions, multilabel_probe


def data(clips: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, 6] in odd units and targets [N, 4] that follow from them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(clips, 6, generator=generator)
    noise = torch.randn(clips, 4, generator=generator)
    targets = (x[:, :4] + 0.5 * noise > torch.tensor([0.0, 0.5, 1.0, 1.5])).double()
    return x * torch.tensor([1.0, 100, 0.01, 1, 1, 1]) + 3, targets


def test_probe_equals_one_regression_for_each_class() -> None:
    (train, targets), (test, _) = data(200, 0), data(50, 1)
    scores = multilabel_probe(train, targets, test)
    scaler = StandardScaler().fit(train.double().numpy())
    for i in range(4):
        one = LogisticRegression(C=0.1, max_iter=5000, tol=1e-10)
        one.fit(scaler.transform(train.double().numpy()), targets[:, i].numpy())
        expected = one.decision_function(scaler.transform(test.double().numpy()))
        assert scores[:, i].numpy() == pytest.approx(expected, abs=1e-3)


def test_a_constant_feature_and_a_class_without_clips_do_no_harm() -> None:
    train, targets = data(60, 0)
    train[:, 5] = 7
    targets[:, 3] = 0
    scores = multilabel_probe(train, targets, train)
    assert scores.isfinite().all() and (scores[:, 3] < 0).all()


def test_average_precision_by_hand() -> None:
    targets = torch.tensor([[1.0, 0], [0, 0], [1, 0], [0, 0]])
    scores = torch.tensor([[0.9, 0], [0.8, 0], [0.7, 0], [0.1, 0]])
    found = average_precisions(targets, scores)
    assert found[0].item() == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found[1].isnan()


def test_average_precision_equals_sklearn_and_equal_scores_give_the_share() -> None:
    x, targets = data(80, 2)
    expected = average_precision_score(targets.numpy(), x[:, :4].numpy(), average=None)
    assert average_precisions(targets, x[:, :4]).numpy() == pytest.approx(expected)
    assert average_precisions(targets, torch.zeros(80, 4)).numpy() == pytest.approx(
        targets.mean(0).numpy()
    )


def test_probe_says_what_is_missing() -> None:
    train, targets = data(10, 0)
    with pytest.raises(UserError, match="labelled clips in two splits"):
        multilabel_probe(train, targets, train[:0])
