"""Searches side by side on a fine-tuned recogniser: mistakes, and time per second of the clips.

A real-time factor below 1 is faster than the clips play. It counts the encoder and the search, not
the reading of files.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from avssl.arguments import count
from avssl.data.dataset import ClipDataset
from avssl.data.length_config import REAL
from avssl.data.loader import make_eval_loader
from avssl.data.manifest import Manifest
from avssl.data.source import open_source
from avssl.errors import UserError
from avssl.speech.decoding import Decoding
from avssl.speech.job import reading_config
from avssl.speech.reader import Reader
from avssl.speech.readers import searched
from avssl.speech.results import scored_rows
from avssl.speech.scoring import ErrorRates, error_rates
from avssl.speech.transcripts import WholeClips
from avssl.train.experiment import load_experiment
from avssl.train.run_folder import data_of


@dataclass
class Trial:
    """One search, and what it has read so far."""

    name: str
    settings: Decoding
    seconds: float = 0.0  # of computing
    texts: list[str] = field(default_factory=list)

    def read(self, reader: Reader, batch: Mapping[str, Any]) -> None:
        """Transcribe a batch, and take the time."""
        began = time.perf_counter()
        found = reader.transcribe(batch, settings=self.settings)
        self.seconds += time.perf_counter() - began
        self.texts += [reader.units.decode(item.units) for item in found]


def main(argv: Sequence[str]) -> int:
    """Print a table; exit code 1 where beam search makes more mistakes than greedy search, or takes
    longer than the clips play."""
    parser = argparse.ArgumentParser(prog="bench.py decoding", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of a finished tools/finetune.py")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=count, help="evenly spread; all of the split without")
    parser.add_argument("--beam", type=count, nargs="+", default=[1, 10], help="hypotheses kept")
    options = parser.parse_args(argv)
    reader = Reader.load(options.run, "cuda" if torch.cuda.is_available() else "cpu")
    data = data_of(options.run, load_experiment(options.run / "config.yaml", shapes=False).config)
    manifest = open_source(data)
    rows = scored_rows(manifest, reader.units, split=options.split)
    config = reading_config(data, reader)
    check = WholeClips(config)
    clips = [clip for row in rows if not check.reason(clip := manifest.clips[row])]
    nothing = f"no clip of the split '{options.split}' of {options.run} can be read"
    if not clips:
        raise UserError(nothing)
    chosen = Manifest(manifest.root, clips)
    dataset = ClipDataset(chosen, config, split=None, training=False, replace=False)
    trials = [Trial("greedy", searched(reader.settings, greedy=True, beam=None))]
    for beam in options.beam:
        trials.append(Trial(f"beam {beam}", searched(reader.settings, greedy=False, beam=beam)))
    references: list[str] = []
    frames = 0
    for batch in make_eval_loader(dataset, config, clips=options.clips, device=reader.device):
        if not len(batch["clip"]):
            continue  # no clip of it could be read
        references += [reader.units.normalise(chosen.clips[k].text) for k in batch["clip"].tolist()]
        frames += len(batch[REAL])
        for trial in trials:
            trial.read(reader, batch)
    if not references:
        raise UserError(nothing)
    played = frames / reader.data.rate  # s
    print(
        f"{len(references)} of {min(len(rows), options.clips or len(rows))} clips, {played:.0f} s, "
        f"{options.run}, {reader.device}, "
        f"{torch.get_num_threads()} threads; CTC weight {reader.settings.ctc_weight:g}"
    )
    rates = [error_rates(references, trial.texts) for trial in trials]
    for trial, found in zip(trials, rates, strict=True):
        _print(trial, found, played)
    worse = max(found.wer for found in rates[1:]) > rates[0].wer
    return int(worse or max(trial.seconds for trial in trials) > played)


def _print(trial: Trial, found: ErrorRates, played: float) -> None:
    print(
        f"  {trial.name:8} WER {100 * found.wer:5.1f} %  CER {100 * found.cer:5.1f} %  "
        f"{trial.seconds:6.1f} s, real-time factor {trial.seconds / played:.3f}"
    )
