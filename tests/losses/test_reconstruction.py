"""Masked reconstruction: only hidden tokens count."""

import pytest
import torch

from avssl.losses.reconstruction import TokenRegression

MASK = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 1]])


def test_mean_over_hidden_tokens_of_the_mean_over_values() -> None:
    prediction, target = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    per_token = [
        ((prediction[b, n] - target[b, n]) ** 2).sum() / 6
        for b, n in [(0, 1), (0, 2), (1, 0), (1, 3)]
    ]
    torch.testing.assert_close(TokenRegression()(prediction, target, MASK), sum(per_token) / 4)


def test_a_visible_prediction_does_not_matter() -> None:
    prediction, target = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    before = TokenRegression()(prediction, target, MASK)
    changed = prediction + 100 * (1 - MASK).unsqueeze(-1)
    assert torch.equal(TokenRegression()(changed, target, MASK), before)
    assert not torch.equal(TokenRegression(tokens="all")(changed, target, MASK), before)


def test_zero_where_hidden_predictions_are_right() -> None:
    target = torch.randn(2, 4, 6)
    prediction = torch.where(MASK.unsqueeze(-1) == 1, target, torch.randn(2, 4, 6))
    assert TokenRegression()(prediction, target, MASK) == 0


def test_all_tokens_is_the_plain_mean() -> None:
    prediction, target = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    expected = torch.nn.functional.mse_loss(prediction, target)
    torch.testing.assert_close(TokenRegression(tokens="all")(prediction, target, MASK), expected)


def test_no_gradient_reaches_the_target() -> None:
    prediction, target = torch.randn(2, 4, 6), torch.randn(2, 4, 6, requires_grad=True)
    prediction.requires_grad_()
    TokenRegression()(prediction, target, MASK).backward()
    assert target.grad is None
    assert prediction.grad is not None
    assert torch.equal(prediction.grad.abs().sum(-1) > 0, MASK > 0)


def test_half_precision_predictions_are_compared_in_float32() -> None:
    prediction, target = torch.randn(2, 4, 6).bfloat16(), torch.randn(2, 4, 6)
    loss = TokenRegression()(prediction, target, MASK)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, TokenRegression()(prediction.float(), target, MASK))


def test_shapes_must_be_equal() -> None:
    with pytest.raises(ValueError, match=r"prediction \[2, 4, 6\] and target \[2, 4, 5\]"):
        TokenRegression()(torch.zeros(2, 4, 6), torch.zeros(2, 4, 5), MASK)
