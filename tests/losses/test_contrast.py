"""InfoNCE: its formula, its limits, and what gathering changes."""

import math

import pytest
import torch
import torch.nn.functional as F

from avssl.losses.contrast import Average, ContrastHealth, InfoNce


def by_the_formula(x: torch.Tensor, y: torch.Tensor, temperature: float) -> torch.Tensor:
    """-(1/B) sum_i log(exp(S(x_i, y_i) / t) / sum_k exp(S(x_i, y_k) / t)), S the cosine."""
    total = torch.zeros(())
    for i in range(len(x)):
        similarity = torch.stack([F.cosine_similarity(x[i], y[k], dim=0) for k in range(len(y))])
        exponentials = (similarity / temperature).exp()
        total = total - (exponentials[i] / exponentials.sum()).log() / len(x)
    return total


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_one_way_and_two_way_are_the_recipes_formula(temperature: float) -> None:
    a, b = torch.randn(6, 10), torch.randn(6, 10) * 3
    forth, back = by_the_formula(a, b, temperature), by_the_formula(b, a, temperature)
    torch.testing.assert_close(InfoNce(temperature=temperature)(a, b), forth)
    two_way = InfoNce(temperature=temperature, two_way=True)
    torch.testing.assert_close(two_way(a, b), (forth + back) / 2)


def test_identical_views_at_a_small_temperature_give_zero() -> None:
    a = torch.randn(8, 64)
    assert InfoNce(temperature=1e-3)(a, a) < 1e-6


def test_unrelated_embeddings_give_log_of_the_batch() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(64, 4096), torch.randn(64, 4096)
    assert abs(InfoNce(temperature=1.0)(a, b).item() - math.log(64)) < 0.02


def test_length_of_an_embedding_does_not_matter() -> None:
    a, b = torch.randn(8, 16), torch.randn(8, 16)
    loss = InfoNce(temperature=0.1)
    torch.testing.assert_close(loss(a * 7, b / 3), loss(a, b))


def test_computed_in_float32_under_autocast() -> None:
    a, b = torch.randn(8, 16), torch.randn(8, 16)
    loss = InfoNce(temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(a, b)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(a, b))


def test_both_sides_get_a_gradient() -> None:
    a, b = torch.randn(8, 16, requires_grad=True), torch.randn(8, 16, requires_grad=True)
    InfoNce(temperature=0.1)(a, b).backward()
    assert a.grad is not None and a.grad.abs().sum() > 0
    assert b.grad is not None and b.grad.abs().sum() > 0


def test_health_counts_matches_and_negatives() -> None:
    a = torch.eye(8)
    b = a.clone()
    b[[0, 1]] = b[[1, 0]]  # two clips swapped
    health = ContrastHealth()(a, b)
    assert health["accuracy"].item() == 0.75
    assert health["negatives"].item() == 7


def test_average() -> None:
    assert Average()(torch.tensor(1.0), torch.tensor(2.0)).item() == 1.5


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature above 0, not 0"):
        InfoNce(temperature=0)
