"""RAVEn's graph at a size that takes milliseconds, and batches of clips of different lengths.

Letters: B clips, T frames of the longest, V real frames.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from avssl.graph.graph import Graph

CONFIGS = Path(__file__).parents[2] / "configs"
GRAPH = CONFIGS / "graphs" / "raven.yaml"
STILL = {"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0}
TINY = {
    "image": 16,
    "channels": 8,
    "features": 64,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "hidden": 32,
    "predictor_width": 16,
    "predictor_depth": 1,
    "predictor_heads": 2,
    "predictor_hidden": 32,
}
LENGTHS = (12, 9, 12, 5)


def tiny(**args: Any) -> Graph:
    """The graph in training mode."""
    return Graph.from_file(GRAPH, args={**TINY, **STILL, **args}).train()


def without_predictors(**args: Any) -> Graph:
    """The same, but for students whose own tokens are to equal the targets."""
    structure = yaml.safe_load(GRAPH.read_text())
    for loss, tokens in {"l_va": "v.tokens", "l_aa": "a.tokens", "l_av": "a.tokens"}.items():
        structure["losses"][loss]["in"]["prediction"] = tokens
    del structure["losses"]["l_vv"]
    structure["nodes"] = {k: v for k, v in structure["nodes"].items() if "_to_" not in v["call"]}
    structure["modules"] = {k: v for k, v in structure["modules"].items() if "_to_" not in k}
    for module in structure["modules"].values():
        if module.get("type") == "graph":
            module["file"] = str(CONFIGS / module["file"])
    return Graph.from_dict(structure, args={**TINY, **STILL, **args}).train()


def indices(lengths: Sequence[int], time: int) -> Tensor:
    """Indices of real frames, int64 [V]."""
    places = [torch.arange(length) + row * time for row, length in enumerate(lengths)]
    return torch.cat(places)


def batch(lengths: Sequence[int] = LENGTHS, *, image: int = 16, seed: int = 1) -> dict[str, Tensor]:
    """A padded batch: noise in the clips, zeros behind them."""
    random = torch.Generator().manual_seed(seed)
    time = max(lengths)
    video = torch.zeros(len(lengths), 1, time, image, image)
    audio = torch.zeros(len(lengths), time, 640)
    for row, length in enumerate(lengths):
        video[row, :, :length] = torch.randn(1, length, image, image, generator=random)
        audio[row, :length] = 0.3 * torch.randn(length, 640, generator=random)
    return {"video": video, "audio": audio, "frames": indices(lengths, time)}


def rows(whole: dict[str, Tensor], first: int, last: int) -> dict[str, Tensor]:
    """Clips `first` to `last` of a batch, as padded as they are in it."""
    time = whole["audio"].shape[1]
    mine = (whole["frames"] >= first * time) & (whole["frames"] < last * time)
    return {
        "video": whole["video"][first:last],
        "audio": whole["audio"][first:last],
        "frames": whole["frames"][mine] - first * time,
    }
