"""A recogniser of lips and sound in two processes: fine-tuning is that of one process with the same
clips, with both losses, masks, modality dropout, and BatchNorm over the clips of both.

Letters: B clips, L units of the longest text.
"""

from pathlib import Path

import torch
from torch import Tensor

from avssl.graph.graph import Graph
from tests.recipes.ranks import Job, two_train_as_one_does
from tests.recipes.raven import CONFIGS, TINY, batch, rows

LENGTHS = (8, 8, 3, 5)  # 16 frames of one process and 8 of the other
TEXTS = ((5, 5, 1, 7), (2, 3, 6, 4, 1), (8,), (6, 2))  # nor do they have as many units
TOWERS = {name: value for name, value in TINY.items() if not name.startswith("predictor")}
HEAD = {
    "units": 10,
    "decoder_width": 16,
    "decoder_depth": 2,
    "decoder_heads": 2,
    "decoder_hidden": 32,
}
# all that is drawn, but for dropout of attention weights, which each process draws for itself
DRAWN = {
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "drop_path": 0.3,
    "decoder_dropout": 0.1,
    "modality_dropout": 0.5,
    "video_mask_window": 3,
    "video_mask_stride": 4,
    "audio_mask_window": 4,
    "audio_mask_stride": 6,
}
RATES = {"lr_scale": 0.5, "layer_decay": 0.8, "ctc": 0.3, "attention": 0.7}
STEPS = 2
# logits become float32 in both losses, whose gradients so have errors of single precision
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


def graph() -> Graph:
    """In training mode."""
    args = {**TOWERS, **HEAD, **DRAWN, **RATES}
    return Graph.from_file(CONFIGS / "graphs" / "speech_both.yaml", args=args).train()


def share(step: int, rank: int, size: int) -> dict[str, Tensor]:
    """A process's clips, padded to the longest clip and text of all."""
    count = len(LENGTHS) // size
    first, last = rank * count, (rank + 1) * count
    text = torch.full((len(TEXTS), max(map(len, TEXTS))), -1)  # [B, L]
    for row, units in zip(text, TEXTS, strict=True):
        row[: len(units)] = torch.tensor(units)
    return rows(batch(LENGTHS, seed=step), first, last) | {"text": text[first:last]}


def test_two_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    figures = two_train_as_one_does(Job(graph, share, CLOSE), tmp_path, STEPS)
    assert all(row["loss/l_ctc"] > 0 and row["loss/l_attention"] > 0 for row in figures)
    # one step had both streams and another did without one, whose encoder gets no gradient
    without = [min(row["grad/video"], row["grad/audio"]) == 0 for row in figures]
    assert sorted(without) == [False, True]
