"""Random masks: how many, which, and that the ports agree."""

import pytest
import torch

from avssl.blocks.masks import RandomMask
from avssl.blocks.tokens import gather_tokens


@pytest.mark.parametrize(
    ("shape", "patch", "kept", "patches"),
    [([2, 1, 1024, 128], [16, 16], 102, 512), ([2, 3, 8, 224, 224], [2, 16, 16], 156, 784)],
)
def test_recipe_counts(shape: list[int], patch: list[int], kept: int, patches: int) -> None:
    masks = RandomMask(ratio=0.8, patch=patch)(torch.zeros(shape))
    assert masks["keep"].shape == (2, kept)
    assert masks["restore"].shape == masks["mask"].shape == (2, patches)
    assert masks["mask"].sum(1).tolist() == [patches - kept] * 2


@pytest.mark.parametrize("tenths", range(1, 10))
def test_count_is_the_exact_floor(tenths: int) -> None:
    mask = RandomMask(ratio=tenths / 10, patch=[1])
    assert [mask.count(n) for n in range(1, 500)] == [
        n * (10 - tenths) // 10 for n in range(1, 500)
    ]


def test_ports_agree() -> None:
    masks = RandomMask(ratio=0.6, patch=[1])(torch.zeros(3, 1, 50))
    assert masks["keep"].dtype == masks["restore"].dtype == torch.int64
    for keep, mask, restore in zip(masks["keep"], masks["mask"], masks["restore"], strict=True):
        assert sorted(keep.tolist()) == (mask == 0).nonzero().flatten().tolist()
        assert sorted(restore.tolist()) == list(range(50))
        assert restore[keep].tolist() == list(range(20))


def test_restore_puts_kept_tokens_back() -> None:
    x = torch.randn(2, 40, 3)
    masks = RandomMask(ratio=0.5, patch=[1])(torch.zeros(2, 1, 40))
    seen = gather_tokens(x, masks["keep"])
    back = gather_tokens(torch.cat([seen, torch.zeros(2, 20, 3)], 1), masks["restore"])
    assert torch.equal(back, x * (1 - masks["mask"]).unsqueeze(-1))


def test_masks_differ_between_samples_and_calls_and_repeat_with_the_seed() -> None:
    mask, like = RandomMask(ratio=0.8, patch=[16, 16]), torch.zeros(2, 1, 1024, 128)
    torch.manual_seed(7)
    first, second = mask(like)["mask"], mask(like)["mask"]
    torch.manual_seed(7)
    assert torch.equal(mask(like)["mask"], first)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_every_patch_is_hidden_equally_often() -> None:
    torch.manual_seed(0)
    share = RandomMask(ratio=0.8, patch=[1])(torch.zeros(4000, 1, 20))["mask"].mean(0)
    assert (share - 0.8).abs().max() < 0.03  # 4.7 standard deviations


def test_refusals_are_sentences() -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        RandomMask(ratio=1.0, patch=[1])
    with pytest.raises(ValueError, match=r"ratio 1e-08 hides none of 4 patches"):
        RandomMask(ratio=1e-8, patch=[1])(torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match=r"ratio 0\.9 keeps none of 4 patches"):
        RandomMask(ratio=0.9, patch=[1])(torch.zeros(1, 1, 4))
    for patch in ([0, 8], [-8, -8]):
        with pytest.raises(ValueError, match=r"8\] must have lengths of 1 or more"):
            RandomMask(ratio=0.5, patch=patch)
