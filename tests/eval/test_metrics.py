"""Measures of features against values worked out by hand or by scikit-learn."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from avssl.errors import UserError
from avssl.eval.metrics import (
    confusion,
    cosine,
    knn,
    linear_probe,
    neighbour_votes,
    rankme,
    ranks,
    retrieval,
    top_k,
)


def test_ranks_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.1, 0.2, 0.15]])
    assert ranks(similarity).tolist() == [1, 3, 2]


def test_retrieval_by_hand() -> None:
    angles = torch.tensor([0.0, 1.0, 2.0, 3.0])
    targets = torch.stack([angles.cos(), angles.sin()], 1)
    moved = torch.tensor([0.1, 1.1, 1.1, 2.9])  # query 2 lies nearest to target 1
    queries = 7 * torch.stack([moved.cos(), moved.sin()], 1)  # length does not matter
    found = retrieval(queries, targets)
    assert (found.r1, found.r5, found.r10) == (0.75, 1.0, 1.0)
    assert found.median_rank == 1
    assert found.chance == 0.25


def test_median_rank_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    similarity = torch.eye(4)
    similarity[2:, 0] = similarity[2:, 1] = 2.0
    assert ranks(similarity).tolist() == [1, 1, 3, 3]
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert retrieval(a, a).median_rank == 1
    assert retrieval(a, a.flip(0)).median_rank == 2
    mixed = torch.tensor([[1.0, 0.0], [1.0, 0.1]])  # both queries point at the first target
    assert retrieval(mixed, a).median_rank == 1.5


@pytest.mark.parametrize("collapsed", [torch.ones(50, 16), torch.zeros(50, 16)])
def test_collapsed_features_rank_last(collapsed: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(50, 16, generator=generator)
    for queries, targets in ((collapsed, collapsed), (good, collapsed)):
        found = retrieval(queries, targets)
        assert found.r1 == 0 and found.median_rank == 50


def test_features_equal_up_to_scale_tie() -> None:
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    scaled = x * torch.linspace(0.3, 5, 40).unsqueeze(1)
    assert retrieval(scaled.double(), scaled.double()).r1 == 0


def test_duplicates_share_the_worse_rank() -> None:
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert ranks(cosine(targets, targets)).tolist() == [2, 2, 1]


def test_retrieval_needs_equal_widths() -> None:
    with pytest.raises(UserError, match="width"):
        retrieval(torch.ones(3, 4), torch.ones(3, 5))


@pytest.mark.parametrize("k", [1, 5, 9])
def test_knn_equals_sklearn(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    centres = torch.randn(4, 8, generator=generator)
    labels = torch.randint(4, (120,), generator=generator)
    x = centres[labels] + torch.randn(120, 8, generator=generator)
    bank, test = x[:80], x[80:]
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    reference.fit(bank.numpy(), labels[:80].numpy())
    ours = knn(test, labels[80:], bank=bank, bank_labels=labels[:80], k=k, temperature=None)
    assert ours == pytest.approx(reference.score(test.numpy(), labels[80:].numpy()))

    def weigh(distance):  # sklearn's distance is 1 - cosine
        return torch.tensor((1 - distance) / 0.07).exp().numpy()

    reference.set_params(weights=weigh)
    ours = knn(test, labels[80:], bank=bank, bank_labels=labels[:80], k=k)
    assert ours == pytest.approx(reference.score(test.numpy(), labels[80:].numpy()))


def test_knn_leaves_one_out() -> None:
    x = torch.eye(4)  # each clip's only equal is itself
    labels = torch.tensor([0, 1, 2, 3])
    assert knn(x, labels, bank=x, bank_labels=labels, k=1) == 1
    assert knn(x, labels, k=1) == 0
    twins = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert knn(twins, torch.tensor([0, 0, 1, 1]), k=1) == 1


def test_knn_votes_by_weight() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.05, 1.0]])
    bank_labels = torch.tensor([0, 1, 1])
    x, label = torch.tensor([[1.0, 0.1]]), torch.tensor([0])
    assert knn(x, label, bank=bank, bank_labels=bank_labels, k=3) == 1
    assert knn(x, label, bank=bank, bank_labels=bank_labels, k=3, temperature=None) == 0


def test_rankme_of_known_spectra() -> None:
    basis = torch.linalg.qr(
        torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).double()
    )
    for rank in (1, 4, 32):
        sigma = torch.zeros(32).double()
        sigma[:rank] = 3.0
        x = basis.Q @ sigma.diag() @ basis.Q.T
        assert rankme(x) == pytest.approx(rank, rel=1e-3)
    share = torch.tensor([0.7, 0.2, 0.1]).double()
    x = basis.Q[:, :3] @ share.diag()
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert rankme(x) == pytest.approx(math.exp(entropy), rel=1e-4)
    assert rankme(5 * x) == pytest.approx(rankme(x), rel=1e-6)


def test_linear_probe_equals_sklearn_on_standardised_features() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (150,), generator=generator)
    x = torch.randn(3, 6, generator=generator)[labels] + torch.randn(150, 6, generator=generator)
    x = x * torch.tensor([1.0, 10, 100, 1, 1, 0.01]) + 5  # units do not matter
    train, test = x[:100], x[100:]
    found = linear_probe(train, labels[:100], test, labels[100:])
    scaler = StandardScaler().fit(train.numpy())
    reference = LogisticRegression(C=0.1, max_iter=2000)
    reference.fit(scaler.transform(train.numpy()), labels[:100].numpy())
    expected = reference.predict(scaler.transform(test.numpy()))
    assert found.predictions.tolist() == expected.tolist()
    assert found.accuracy == pytest.approx((expected == labels[100:].numpy()).mean())


def test_linear_probe_says_what_is_missing() -> None:
    x, none = torch.ones(4, 2), torch.ones(0, 2)
    one = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match="labelled clips in two splits"):
        linear_probe(x, one, none, one[:0])
    with pytest.raises(UserError, match="two classes"):
        linear_probe(x, one, x, one)


def test_confusion_rows_are_true_classes() -> None:
    counts = confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), classes=3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_top_k_counts_the_right_class_among_the_best() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]])
    labels = torch.tensor([2, 2])
    assert [top_k(scores, labels, k) for k in (1, 2, 3)] == [0, 0.5, 1]


def test_equal_scores_are_worth_a_guess_that_ignores_the_label() -> None:
    labels = torch.arange(10).repeat(3)
    assert top_k(torch.zeros(30, 10), labels, 1) == pytest.approx(0.1)
    assert top_k(torch.zeros(30, 10), labels, 5) == pytest.approx(0.5)


def test_probe_scores_cover_classes_without_train_clips() -> None:
    x = torch.tensor([[0.0], [1.0], [0.1], [0.9]])
    found = linear_probe(x, torch.tensor([0, 2, 0, 2]), x, torch.tensor([0, 2, 1, 3]))
    assert found.scores.shape == (4, 4)
    assert found.scores[:, [1, 3]].isinf().all() and found.scores[:, [0, 2]].isfinite().all()
    assert found.scores.argmax(1).tolist() == found.predictions.tolist()
    assert top_k(found.scores, torch.tensor([0, 2, 1, 3]), 1) == found.accuracy


def test_votes_of_clips_with_several_labels() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]).double()
    votes = neighbour_votes(torch.tensor([[1.0, 0.0]]), targets, bank=bank, k=2, temperature=None)
    assert votes.tolist() == [[1, 2, 1]]
