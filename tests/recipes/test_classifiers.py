"""Classifiers of the students of DMAE and MVD: which weights they take, and how many they have."""

from pathlib import Path

import pytest
import torch
from torch import nn

import avssl
from avssl.finetune.build import build_classifier
from avssl.finetune.model import Head
from avssl.finetune.read import read_file
from avssl.graph.graph import SubGraph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Problems
from avssl.train.run import train
from tests.recipes.students import CONFIGS
from tests.train import tiny

DMAE = """\
name: tiny_dmae
run: {run}
data:
  source: never read
  batch: 4
  workers: 0
  inputs:
    image: {{type: frames, frames: 1, size: 32}}
args:
  {{width: 32, depth: 3, heads: 2, image: 32, patch: 8, tap: 2, decoder_width: 16, decoder_depth: 1,
   decoder_heads: 2, teacher_width: 48}}
train: {{lr: 1.0e-2, device: cpu}}
probe: {{every: 0, pictures: false, final: false}}
stages:
  teacher: {{graph: graphs/mae.yaml, steps: 1, args: {{width: 48, depth: 4, heads: 3, tap: 3}}}}
  student: {{graph: graphs/dmae.yaml, steps: 2}}
"""
WITHOUT = ("decoder.", "head.", "projection.", "teacher.")  # of the student's pre-training


def test_dmae_gives_its_classifier_all_but_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`head.norm` and `head.linear` are the authors' `fc_norm` and `head`. Unlike theirs, the norm
    of the encoder stays."""
    monkeypatch.setattr("avssl.train.clips.open_clips", tiny.TinyClips)
    train(tiny.write(tmp_path, DMAE))
    av = avssl.load(tmp_path / "run")
    config, _ = read_file(CONFIGS / "finetune" / "dmae_imagenet.yaml")
    encoder = av[config.encoder]
    classifier = build_classifier(
        encoder, av.roles, encoder.inputs, config=config, classes=10, seed=0
    )
    state = tiny.weights(tmp_path / "run", "student")
    kept = {name: item for name, item in state.items() if not name.startswith(WITHOUT)}
    own = classifier.graph.state_dict()
    head = {f"head.{part}" for part in ("norm.weight", "norm.bias", "linear.weight", "linear.bias")}
    assert set(own) == set(kept) | head and "image.norm.norm.weight" in kept
    assert all(torch.equal(own[name], item) for name, item in kept.items())
    missing, unexpected = classifier.graph.load_state_dict(kept, strict=False)
    assert set(missing) == head and not unexpected
    assert own["head.linear.weight"].std() < 1e-4 and not own["head.linear.bias"].any()


@pytest.mark.parametrize(
    ("depth", "width", "heads", "millions"),
    [(12, 384, 6, 22.03), (12, 768, 12, 86.54), (24, 1024, 16, 304.27), (32, 1280, 16, 632.12)],
)
def test_mvd_classifiers_of_kinetics_400(
    depth: int, width: int, heads: int, millions: float
) -> None:
    """Theirs, and two things which theirs lack: biases of keys, and the encoder's last norm."""
    config, _ = read_file(CONFIGS / "finetune" / "mvd_kinetics400.yaml")
    problems = Problems()
    args = {"depth": depth, "width": width, "heads": heads, "drop_path": config.train.drop_path}
    spec = read_graph(CONFIGS / "towers" / "vit_clip.yaml", problems, args=args, inner=True)
    assert spec is not None
    connect(spec, problems)
    tower = SubGraph(spec, problems, "video")  # on the meta device
    problems.raise_if_any()
    with torch.device("meta"):
        parts: list[nn.Module] = [tower, Head(width, 400, std=config.train.head_std)]
    keys, norm = depth * width, 2 * width
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert (count - keys - norm) / 1e6 == pytest.approx(millions, abs=0.006)
