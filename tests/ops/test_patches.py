"""Patches: cut and put together again."""

import pytest
import torch

from avssl.ops.patches import patch_grid, patch_statistics, patchify, unpatchify


@pytest.mark.parametrize(
    ("shape", "patch"), [((2, 1, 8, 12), [4, 2]), ((2, 3, 4, 8, 6), [2, 4, 3]), ((2, 5, 12), [3])]
)
def test_unpatchify_undoes_patchify(shape: tuple[int, ...], patch: list[int]) -> None:
    x = torch.randn(shape)
    patches = patchify(x, patch)
    assert patches.shape[1] == torch.Size(patch_grid(shape[2:], patch)).numel()
    assert torch.equal(unpatchify(patches, shape[2:], patch), x)


def test_statistics_undo_the_normalisation() -> None:
    patches = torch.randn(2, 5, 16) * 4 + 1
    mean, std = patch_statistics(patches, "patch", 2)
    normalised = (patches - mean) / std
    torch.testing.assert_close(normalised * std + mean, patches)
    torch.testing.assert_close(normalised.var(-1), torch.ones(2, 5), rtol=0, atol=1e-5)
    mean, std = patch_statistics(patches, "channel", 2)
    normalised = (patches - mean) / std
    torch.testing.assert_close(normalised * std + mean, patches)
    each = normalised.unflatten(2, (8, 2))  # [B, N, places, C]
    torch.testing.assert_close(each.var(2), torch.ones(2, 5, 2), rtol=0, atol=1e-5)


def test_axes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"size \[8, 12\] has 2 axes but patch \[2\] 1"):
        patch_grid([8, 12], [2])
    with pytest.raises(ValueError, match=r"size \[8, 13\] is not a whole number of patches"):
        patch_grid([8, 13], [2, 2])
