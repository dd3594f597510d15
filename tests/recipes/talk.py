"""RAVEn's experiment of a laptop at a size that trains in seconds, on noise in place of clips."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.recipes.raven import CONFIGS, STILL, TINY, batch, rows
from tests.train.tiny import TinyClips

EXPERIMENT = CONFIGS / "raven.yaml"
STEPS = 4


class Talk(TinyClips):
    """Clips of noise of several lengths; a step's are a function of the seed and its number."""

    def __init__(self, config: Any, world: Any) -> None:
        self.world, self.clips_per_step, self.fingerprint = world, 4, "4 (noise)"
        self.description = {"source": "noise"}

    def split(self, name: str, **_: Any) -> Iterator[dict[str, Any]]:
        count = 16
        whole = batch([3 + row % 4 for row in range(count)], seed=len(name))
        numbers = torch.arange(count)
        yield whole | {"label": numbers % 4, "clip": numbers, "failures": []}

    def batches(self, *, seed: int, start: int, steps: int, **_: Any) -> Iterator[dict[str, Any]]:
        share = 4 // self.world.size
        for step in range(start, steps):
            whole = batch((7, 7, 3, 5), seed=seed + step)
            mine = rows(whole, self.world.rank * share, (self.world.rank + 1) * share)
            yield mine | {"failures": []}


def overrides(run: Path, *, save_every: int) -> list[str]:
    """What makes it small."""
    sizes = [f"args.{name}={value}" for name, value in {**TINY, **STILL, "depth": 1}.items()]
    return [
        f"run={run}",
        *sizes,
        "args.dropout=0.1",
        "data.inputs.video.size=16",
        "data.inputs.video.stored=18",
        "data.workers=0",
        "train.device=cpu",
        "train.warmup=0",
        f"train.save_every={save_every}",
        "train.keep=9",
        "train.log_every=1",
        "probe.pictures=false",
        "probe.final=false",
        f"stages.pretrain.steps={STEPS}",
    ]
