"""Stems embed the kept patches alone: the same tokens as a convolution over everything."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from avssl.blocks.frame_stems import LipStem, WaveStem
from avssl.blocks.positions import SinCos2d, SinCos3d
from avssl.blocks.stems import PatchEmbed2d, PatchEmbed3d
from avssl.blocks.tokens import gather_tokens

STEMS = {
    "2d": (PatchEmbed2d(channels=1, width=16, patch=[4, 8]), SinCos2d, [12, 16], [4, 8]),
    "3d": (PatchEmbed3d(channels=3, width=16, patch=[2, 4, 4]), SinCos3d, [4, 8, 12], [2, 4, 4]),
}


@pytest.mark.parametrize("name", STEMS)
def test_kept_patches_equal_the_convolution(name: str) -> None:
    stem, _, size, _ = STEMS[name]
    stem.init_weights()
    channels = stem.proj.in_channels
    x = torch.randn(2, channels, *size)
    everything = stem.proj(x).flatten(2).transpose(1, 2)
    keep = torch.stack([torch.randperm(everything.shape[1])[:3] for _ in range(2)])
    torch.testing.assert_close(stem(x), everything, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stem(x, keep), gather_tokens(everything, keep), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STEMS)
def test_kept_positions_are_those_of_the_patches(name: str) -> None:
    _, cls, size, patch = STEMS[name]
    positions: nn.Module = cls(width=16, size=size, patch=patch)
    positions.init_weights()
    tokens: Tensor = torch.randn(2, positions.table.shape[1], 16)
    keep = torch.stack([torch.randperm(tokens.shape[1])[:3] for _ in range(2)])
    kept = positions(gather_tokens(tokens, keep), keep)
    assert torch.equal(kept, gather_tokens(positions(tokens), keep))


@pytest.mark.parametrize("length", [0, -8])
def test_patches_without_length_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="must have lengths of 1 or more"):
        PatchEmbed2d(channels=1, width=8, patch=[8, length])
    with pytest.raises(ValueError, match="must have lengths of 1 or more"):
        PatchEmbed3d(channels=1, width=8, patch=[length, 8, 8])


def test_parts_of_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="whole number of patches"):
        STEMS["2d"][0](torch.randn(2, 1, 13, 16))


@pytest.mark.parametrize("stem", [LipStem, WaveStem])
@pytest.mark.parametrize("channels", [0, 4, 12])
def test_channels_that_would_spoil_memory_are_refused(
    stem: type[LipStem | WaveStem], channels: int
) -> None:
    with pytest.raises(ValueError, match="needs channels in multiples of 8"):
        stem(channels=channels)


CHECKER = "libc_malloc_debug.so.0"  # glibc's allocator that stops at damaged memory

NARROW = """
import torch
from torch import nn
from avssl.blocks.resnet import Shortcut

torch.manual_seed(0)
torch.set_num_threads(2)
for frames in torch.randint(5, 600, [30]).tolist():
    layer = Shortcut(nn.Conv1d, 8, 16, 2)
    x = torch.randn(frames, 8, 1, 160).contiguous(memory_format=torch.channels_last)
    layer(x).square().mean().backward()
"""


def test_narrow_shortcuts_leave_memory_alone() -> None:
    """oneDNN's own stride damages it in the backward pass, where the CPU has AVX-512."""
    if not _is_to_be_had(CHECKER):
        pytest.skip(f"needs glibc's {CHECKER}")
    checked = {**os.environ, "LD_PRELOAD": CHECKER, "MALLOC_CHECK_": "3"}
    ran = subprocess.run([sys.executable, "-c", NARROW], env=checked, capture_output=True)
    assert ran.returncode == 0, ran.stderr


def _is_to_be_had(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
