"""Towers for other projects' weights: sizes as their files say, and patches seen through `keep`."""

import re

import pytest
import torch

from avssl.blocks.positions import sinusoid_table
from avssl.graph.graph import SubGraph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Problems
from avssl.weights.foreign import CONFIGS
from tests.weights.plain import layers, randomise

SMALL = {"width": 48, "depth": 2, "heads": 3}
PICTURE, SOUND = (3, 1, 32, 32), (1, 64, 32)
# tower: arguments, input, patches
CASES = {
    "vit_image": ({"image": 32}, PICTURE, 4),
    "vit_clip": ({"image": 32, "frames": 4}, (3, 4, 32, 32), 8),
    "vit_audio_norm": ({"frames": 64, "bins": 32}, SOUND, 8),
    "ast": ({"frames": 64, "bins": 32}, SOUND, 10),
    "cavmae_audio": ({"frames": 64, "bins": 32}, SOUND, 8),
    "cavmae_video": ({"image": 32}, PICTURE, 4),
}


def tower(name: str, args: dict[str, object]) -> SubGraph:
    """A tower on the meta device."""
    problems = Problems()
    spec = read_graph(CONFIGS / "towers" / f"{name}.yaml", problems, args=args, inner=True)
    assert spec is not None
    connect(spec, problems)
    module = SubGraph(spec, problems, "")
    problems.raise_if_any()
    return module


@pytest.mark.parametrize("name", CASES)
def test_kept_patches_are_those_of_the_whole(name: str) -> None:
    args, shape, patches = CASES[name]
    module = tower(name, {**SMALL, **args}).to_empty(device="cpu")
    randomise(module)
    for buffer in module.buffers():
        buffer.normal_()
    x = torch.randn(2, *shape)
    (whole, *_), out = layers(module, x=x)
    front = whole.shape[1] - patches
    keep = torch.stack([torch.randperm(patches)[:3] for _ in range(2)])  # [2, 3]
    (seen, *_), _ = layers(module, x=x, keep=keep)
    torch.testing.assert_close(seen[:, :front], whole[:, :front])
    rows = torch.arange(2)[:, None]
    torch.testing.assert_close(seen[:, front:], whole[:, front:][rows, keep])
    everything = torch.arange(patches).expand(2, -1)
    torch.testing.assert_close(module(x=x, keep=everything)["tokens"], out["tokens"])
    torch.testing.assert_close(out["pooled"], out["tokens"][:, front:].mean(1))


@pytest.mark.parametrize("name", ["vit_image", "vit_clip", "vit_audio_norm", "ast"])
def test_base_sizes_are_those_that_the_file_states(name: str) -> None:
    text = " ".join((CONFIGS / "towers" / f"{name}.yaml").read_text().replace("\n#", "").split())
    stated = re.search(r"([\d,]{10,}) (?:trained )?parameters", text)
    assert stated is not None
    count = sum(parameter.numel() for parameter in tower(name, {}).parameters())
    assert count == int(stated[1].replace(",", ""))


def test_sinusoids_take_turns() -> None:
    table = sinusoid_table(7, 8)
    angle = 3 / 10000 ** (2 / 8)  # place 3, second pair of channels
    expected = torch.tensor([angle], dtype=torch.float64)
    assert torch.allclose(table[3, 2], expected.sin()) and torch.allclose(
        table[3, 3], expected.cos()
    )
