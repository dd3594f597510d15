"""Extraction of features against a bare loop over the same decoded batches.

Letters: B clips of a batch.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from avssl.arguments import count
from avssl.bench.timing import alternate, median_ratio
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.manifest import Clip
from avssl.data.source import open_source
from avssl.encoders.encoder import Encoder
from avssl.encoders.extract import Job, Wanted


class Pair:
    """The two sides: encoding alone, and encoding with everything that extraction adds."""

    def __init__(
        self,
        encoder: Encoder,
        batches: Sequence[Mapping[str, Any]],
        clips: Sequence[Clip],
        folder: Path,
    ) -> None:
        self.encoder, self.batches, self.folder = encoder, batches, folder
        wanted = Wanted(
            module=encoder.name, layer=None, pool="mean", span="middle", format="safetensors",
            split=None, shard=500,
        )  # fmt: skip
        self.job = Job(folder, encoder, wanted, clips, range(len(clips)))

    def bare(self) -> None:
        """Encode each batch and keep the features."""
        kept = []
        with torch.no_grad():
            for batch in self.batches:
                kept.append(self.encoder.encode(batch).float().cpu())  # [B, D]

    def extraction(self) -> None:
        """Encode each batch and write the features."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.job.write(self.batches, {}, 0)


def main(arguments: Sequence[str]) -> int:
    """Print how much of the bare loop's throughput extraction has; 1 below nine tenths."""
    parser = argparse.ArgumentParser(prog="bench.py extraction", description=__doc__)
    parser.add_argument("model", type=Path, help="run folder, exported folder or checkpoint file")
    parser.add_argument("--module", default="video", help="encoder")
    parser.add_argument("--data", default="corpus:scenes")
    parser.add_argument("--split", default="test")
    parser.add_argument("--batch", type=count, default=32)
    parser.add_argument("--rounds", type=count, default=10)
    options = parser.parse_args(arguments)

    import avssl

    encoders = avssl.load(options.model)
    encoder = encoders[options.module]
    data = encoders.data(options.data, [options.module], batch=options.batch)
    clips = ClipDataset(open_source(data), data, split=options.split, training=False, replace=False)
    batches = list(make_eval_loader(clips, data))
    for number, batch in enumerate(batches):  # rows of the manifest become positions
        first = number * options.batch
        batch["clip"] = torch.arange(first, first + len(batch["clip"]))
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(encoder, batches, clips.clips, Path(folder) / "features")
        pair.folder.mkdir()
        sides = {"bare loop": pair.bare, "extraction": pair.extraction}
        times = alternate(sides, rounds=options.rounds)
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:12} {median:7.2f} s  {len(clips) / median:8.1f} clips/s")
    share = median_ratio(times, "bare loop", "extraction")
    print(f"extraction has {share:.1%} of the bare loop's throughput (median of the rounds)")
    return 0 if share >= 0.9 else 1
