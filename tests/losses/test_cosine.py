"""The regression of directions, and the figures that tell collapse.

Letters: B batch, T frames, V real frames, D width.
"""

import pytest
import torch
from torch import Tensor

from avssl.eval.metrics import rankme
from avssl.losses.collapse import Collapse
from avssl.losses.cosine import NegativeCosine
from avssl.ops.frames import valid_frames
from tests.recipes.raven import indices

FRAMES = indices((5, 3), 5)
MASK = torch.tensor([[1.0, 0, 0, 1, 1], [0, 1, 0, 0, 0]])  # [B, T]


def features(seed: int) -> Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed))


def loss(tokens: str, prediction: Tensor, target: Tensor) -> Tensor:
    inputs = {"prediction": prediction, "target": target, "frames": FRAMES}
    if tokens == "masked":
        inputs["mask"] = MASK
    return NegativeCosine(tokens=tokens)(**inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", ["masked", "valid"])
def test_it_is_the_mean_over_its_frames(tokens: str) -> None:
    prediction, target = features(1), features(2)
    counted = valid_frames(FRAMES, 2, 5) & (MASK.bool() | (tokens == "valid"))
    cosines = [
        torch.dot(prediction[b, t], target[b, t]) / prediction[b, t].norm() / target[b, t].norm()
        for b, t in counted.nonzero().tolist()
    ]
    torch.testing.assert_close(loss(tokens, prediction, target), -torch.stack(cosines).mean())
    # a change anywhere else changes nothing, one at an unmasked frame only what counts all of them
    other = torch.where(counted[:, :, None], prediction, features(3))
    assert torch.equal(loss(tokens, other, target), loss(tokens, prediction, target))
    unmasked = prediction.clone()
    unmasked[0, 1] = features(3)[0, 1]
    same = torch.equal(loss(tokens, unmasked, target), loss(tokens, prediction, target))
    assert same == (tokens == "masked")


@pytest.mark.parametrize("tokens", ["masked", "valid"])
def test_a_perfect_prediction_gives_minus_one(tokens: str) -> None:
    target = features(1)
    torch.testing.assert_close(loss(tokens, 3 * target, target), torch.tensor(-1.0))
    torch.testing.assert_close(loss(tokens, -target, target), torch.tensor(1.0))


def test_targets_get_no_gradient() -> None:
    prediction, target = features(1).requires_grad_(), features(2).requires_grad_()
    loss("valid", prediction, target).backward()
    assert target.grad is None and prediction.grad is not None
    assert not prediction.grad[1, 3:].any()  # padding


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="reads a mask with tokens: masked"):
        NegativeCosine(tokens="masked")(features(1), features(2))
    with pytest.raises(ValueError, match="reads a mask with tokens: masked"):
        NegativeCosine(tokens="valid")(features(1), features(2), MASK)
    with pytest.raises(ValueError, match=r"\[2, 5, 8\] and target \[2, 5, 4\] differ"):
        NegativeCosine(tokens="valid")(features(1), features(2)[..., :4])


def test_collapse_is_told_by_spread_and_rank() -> None:
    x = features(1)
    found = Collapse()(x, FRAMES)
    real = x.flatten(0, 1)[FRAMES]  # [V, D]
    torch.testing.assert_close(found["std"], real.std(0, correction=0).mean())
    assert found["rank"].item() == pytest.approx(rankme(real), rel=1e-4)
    same = Collapse()(torch.ones(2, 5, 8), FRAMES)
    assert same["std"] == 0 and same["rank"].item() == pytest.approx(1, abs=1e-3)
    assert Collapse()(torch.zeros(2, 5, 8))["std"] == 0
    line = torch.arange(10.0).view(2, 5, 1) * torch.randn(8)
    assert Collapse()(line)["rank"].item() == pytest.approx(1, abs=1e-3)
