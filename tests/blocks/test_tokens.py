"""Token movements: order, CLS in front, streams apart."""

import pytest
import torch

from avssl.blocks.targets import Patchify3d, TargetNorm
from avssl.blocks.tokens import (
    ClipPictures,
    ClsToken,
    ConcatTokens,
    DropCls,
    PoolTokens,
    RestoreTokens,
    SplitTokens,
)
from avssl.errors import UserError


def test_cls_is_in_front_and_left_out_of_the_mean() -> None:
    cls, x = ClsToken(width=3), torch.randn(2, 5, 3)
    cls.init_weights()
    with_cls = cls(x)
    assert torch.equal(with_cls[:, 0], cls.cls_token[0].expand(2, -1))
    assert torch.equal(DropCls()(with_cls), x)
    torch.testing.assert_close(PoolTokens()(with_cls), x.mean(1))


def test_restored_order() -> None:
    block = RestoreTokens(width=1)
    block.init_weights()
    token = block.mask_token.item()
    x = torch.tensor([[[9.0], [1.0], [2.0]]])  # CLS, then the patches kept: 3 and 0 of 4
    out = block(x, torch.tensor([[1, 2, 3, 0]]))
    assert out.flatten().tolist() == [9.0, 2.0, token, token, 1.0]


def test_split_undoes_concat() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    parts = SplitTokens()(ConcatTokens()(a, b), a)
    assert torch.equal(parts["a"], a) and torch.equal(parts["b"], b)


def test_tubelets_run_over_time_rows_columns_then_channels() -> None:
    shape = (1, 3, 4, 4, 4)
    axes = torch.meshgrid(*(torch.arange(n) for n in shape[1:]), indexing="ij")
    clip = sum(axis * 10**power for axis, power in zip(axes, (3, 2, 1, 0), strict=True))
    patches = Patchify3d(patch=[2, 2, 2], normalize="none")(clip.expand(shape).float())
    assert patches.shape == (1, 8, 24)
    assert patches[0, 0, :6].tolist() == [0, 1000, 2000, 1, 1001, 2001]  # channels, then columns
    assert patches[0, 0, 12].item() == 100  # the second frame of the tubelet
    assert patches[0, 1, 0].item() == 2  # next patch: two columns on
    assert patches[0, 4, 0].item() == 200  # index = t * 4 + h * 2 + w


def test_patch_normalisation_is_per_patch_with_the_unbiased_variance() -> None:
    x = torch.randn(2, 3, 4, 4, 4) * 5 + 3
    normalised = Patchify3d(patch=[2, 2, 2], normalize="patch")(x)
    plain = Patchify3d(patch=[2, 2, 2], normalize="none")(x)
    variance = (plain - plain.mean(-1, keepdim=True)).square().sum(-1, keepdim=True) / 23
    expected = (plain - plain.mean(-1, keepdim=True)) / (variance + 1e-6).sqrt()
    torch.testing.assert_close(normalised, expected)
    flat = Patchify3d(patch=[2, 2, 2])(torch.full((1, 3, 2, 2, 2), 7.0))
    assert flat.abs().max() == 0


def test_target_norm() -> None:
    x = torch.randn(2, 5, 64) * 3 + 1
    assert torch.equal(TargetNorm(kind="none")(x), x)
    out = TargetNorm(kind="layer")(x)
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(-1, correction=0), torch.ones(2, 5), atol=1e-4, rtol=0)


def test_target_norm_over_a_clip_counts_its_real_frames_alone() -> None:
    norm = TargetNorm(kind="instance")
    x = torch.randn(2, 5, 8) * 3 + 1
    frames = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])  # the second clip has three
    out = norm(x, frames)
    for clip, length in enumerate((5, 3)):
        own = out[clip, :length]
        torch.testing.assert_close(own.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
        torch.testing.assert_close(own.var(0, correction=0), torch.ones(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(own, norm(x[clip : clip + 1, :length])[0])
    assert out[1, 3:].abs().max() == 0
    assert norm(torch.ones(1, 4, 8)).abs().max() == 0  # what never moves is no target


def test_whitened_targets_have_no_direction_that_counts_for_more() -> None:
    frames = torch.arange(330)  # the second clip has 130
    mixing = torch.diag(torch.logspace(0, -1, 8)) @ torch.linalg.qr(torch.randn(8, 8))[0]
    x = torch.randn(2, 200, 8) @ mixing + torch.randn(2, 1, 8)
    x[1, 130:] = 0
    out = TargetNorm(kind="whiten", floor=1e-6)(x, frames)
    for clip, length in enumerate((200, 130)):
        torch.testing.assert_close(out[clip, :length].mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    packed = out.flatten(0, 1)[frames]
    torch.testing.assert_close(packed.T @ packed / 330, torch.eye(8), atol=0.02, rtol=0)
    assert out[1, 130:].abs().max() == 0
    high = TargetNorm(kind="whiten", floor=1.0)(x, frames)  # leaves differences
    spread = torch.linalg.eigvalsh(high.flatten(0, 1).T.cov())
    assert spread.max() < 1 and spread.min() < 0.5 * spread.max()
    assert TargetNorm(kind="whiten")(torch.ones(1, 4, 8)).abs().max() == 0
    with pytest.raises(UserError, match="floor=0 must be above 0"):
        TargetNorm(kind="whiten", floor=0)


def test_pictures_of_a_clip_are_resized_from_edge_to_edge() -> None:
    ramp = torch.linspace(0, 1, 28).expand(2, 3, 4, 28, 28)  # from left to right
    found = ClipPictures(every=2, size=14)(ramp)  # [4, 3, 1, 14, 14]
    assert found.shape == (4, 3, 1, 14, 14)
    torch.testing.assert_close(found, found[:1, :1, :, :1].expand_as(found))
    pairs = torch.linspace(0, 1, 28).unflatten(0, (14, 2)).mean(1)
    torch.testing.assert_close(found[0, 0, 0, 0, 1:-1], pairs[1:-1], atol=1e-5, rtol=0)
    x = torch.randn(2, 3, 4, 28, 28)
    assert torch.equal(ClipPictures(every=2, size=28)(x), ClipPictures(every=2)(x))
    with pytest.raises(ValueError, match="size is 0 pixels"):
        ClipPictures(size=0)
