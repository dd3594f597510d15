"""Training on clips that keep their own length: what fits a graph, and a run that goes on."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from avssl.data.manifest import Manifest
from avssl.data.scan import folder_clips, scan_clips
from avssl.errors import UserError
from avssl.train.experiment import load_experiment
from avssl.train.run import train
from tests.train import tiny

TEXT = """\
name: lengths
run: {run}
data:
  source: SOURCE
  lengths: {{budget: 80, longest: 1.6, buckets: 2}}
  workers: 0
  inputs:
    audio: {{type: wave}}
train: {{lr: 1.0e-2, warmup: 0, device: cpu, log_every: 1, save_every: 3}}
probe: {{every: 0, pictures: false, final: false}}
stages:
  one: {{graph: graphs/waves.yaml, epochs: 2}}
"""
WAVES = """\
inputs:
  audio: [B, T, 640]
  frames: {shape: [V], dtype: int64}
modules:
  student: {type: linear, width: 640, out: 8}
  teacher: {ema_of: student, momentum: 0.9}
  head: {type: linear, width: 8, out: 8}
  cosine: {type: negative_cosine, tokens: valid}
nodes:
  a: {call: student, in: {x: batch.audio}}
  b: {call: teacher, in: {x: batch.audio}}
  c: {call: head, in: {x: a}}
losses:
  loss: {call: cosine, weight: 1.0, in: {prediction: c, target: b, frames: batch.frames}}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 20 stretches of a wav, 12 to 40 frames long."""
    folder = tmp_path_factory.mktemp("waves")
    noise = np.random.default_rng(0).standard_normal(16000 * 4).astype(np.float32) * 0.1
    soundfile.write(folder / "a.wav", noise, 16000)
    (clip,) = scan_clips(folder, folder_clips(folder, folder), workers=1)
    counts = [12 + (7 * number) % 29 for number in range(20)]
    rows = [
        dataclasses.replace(clip, start=n / 25, end=(n + count) / 25, split="train")
        for n, count in enumerate(counts)
    ]
    Manifest(folder, rows).write(folder / "manifest.csv")
    return folder / "manifest.csv"


def written(folder: Path, source: Path, graph: str = WAVES, text: str = TEXT) -> Path:
    return tiny.write(folder, text.replace("SOURCE", str(source)), waves=graph)


def test_a_run_that_is_continued_ends_with_the_same_figures(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    path = written(whole, source)
    train(path)
    steps = len(tiny.metrics(whole / "run"))
    said = capsys.readouterr().out
    assert "clips/s" in said and "MFU" not in said
    card = (whole / "run" / "card.md").read_text()
    assert "0.4 to 1.6 s, as long as the clip" in card
    assert "- train clips: 20 used\n" in card and "- val clips: 0 listed, none read\n" in card
    path = written(parts, source)
    train(path)
    shutil.rmtree(max((parts / "run" / "checkpoints" / "one").iterdir()))  # as if killed before
    (parts / "run" / "card.md").unlink()
    train(path)
    assert f"continuing at step {steps // 3 * 3 - (3 if steps % 3 == 0 else 0)}" in (
        capsys.readouterr().out
    )
    losses = [[row["loss"] for row in tiny.metrics(folder / "run")] for folder in (whole, parts)]
    assert losses[0] == losses[1] and len(set(losses[0])) == steps


@pytest.mark.parametrize(
    ("graph", "text", "sentence"),
    [
        (WAVES.replace("[B, T, 640]", "[B, 50, 640]"), TEXT, r"makes \[B, T, 640\], but "),
        (WAVES.replace("640", "320"), TEXT, r"makes \[B, T, 640\]"),
        (
            WAVES,
            TEXT.replace("  lengths: {{budget: 80, longest: 1.6, buckets: 2}}\n", "").replace(
                "{{type: wave}}", "{{type: fbank}}"
            ),
            r"only with data.lengths in .*tiny.yaml batches have 'frames'",
        ),
        (WAVES, TEXT.replace("lr: 1.0e-2", "lr: 1.0e-2, lr_rule: per_256"), "lr_rule: absolute"),
        (WAVES, TEXT.replace("  workers", "  batch: 8\n  workers"), "data.batch does nothing with"),
        (WAVES, TEXT.replace("type: wave", "type: wav"), "'data.inputs.audio.type' is 'wav'"),
        (WAVES, TEXT.replace("budget", "budgets"), "unknown key 'budgets' in 'data.lengths'"),
    ],
)
def test_what_does_not_fit_is_found_before_any_data_is_read(
    tmp_path: Path, graph: str, text: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        load_experiment(written(tmp_path, Path("nowhere"), graph, text), shapes=False)
