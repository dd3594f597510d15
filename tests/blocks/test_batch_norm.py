"""BatchNorm of packed frames: PyTorch's in one process; several are in the recipes' tests."""

import pytest
import torch
from torch import nn

from avssl.blocks import batch_norm
from avssl.blocks.batch_norm import BatchNorm
from avssl.blocks.frame_tokens import FrameNorm


@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 5), (7, 4, 5, 6)])
def test_it_is_that_of_pytorch_with_its_names(shape: tuple[int, ...]) -> None:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    theirs, ours = kinds[len(shape)](4), BatchNorm(4)
    nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        x = torch.randn(shape)
        assert torch.equal(ours(x), theirs(x))
    for name, item in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], item)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 5), (7, 4, 5, 6)])
def test_the_form_for_many_ranks_is_the_same(
    shape: tuple[int, ...], affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two ranks with the same frames would compute it: the statistics stay."""
    alone, many = BatchNorm(4, affine=affine), BatchNorm(4, affine=affine)
    x = torch.randn(shape) * 3 + 100  # a mean far from 0
    found = []
    for norm in (alone, many):
        if norm is many:
            monkeypatch.setattr(batch_norm, "rank_and_world", lambda: (0, 2))
            monkeypatch.setattr(batch_norm, "gather_batch", lambda row: torch.cat([row, row]))
        y = x.clone().requires_grad_()
        out = norm(y)
        (out * torch.linspace(0, 1, out.numel()).view_as(out)).sum().backward()
        found.append([out, y.grad, norm.running_mean, *(p.grad for p in norm.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
    n = x.numel() // 4
    factor = 2 * n / (2 * n - 1) / (n / (n - 1))  # the bias of a variance over twice as many
    torch.testing.assert_close(many.running_var - 0.9, (alone.running_var - 0.9) * factor)


def test_frames_are_normalised_by_the_real_ones_alone() -> None:
    norm = FrameNorm(width=4)
    norm.init_weights()
    x, frames = torch.randn(2, 40, 4) * 3 + 100, torch.arange(60)
    out = norm(x, frames)
    real = out.flatten(0, 1)[:60]
    torch.testing.assert_close(real.mean(0), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(4), rtol=1e-4, atol=0)
    assert not out[1, 20:].any()
    x[1, 20:] = 7.0
    assert torch.equal(norm(x, frames), out)
    alone = norm.eval()(x[:1])
    torch.testing.assert_close(norm(x, frames)[:1], alone)
    untouched = FrameNorm(width=4, kind="none")
    assert untouched(x, frames) is x and not untouched.state_dict()
