"""What is exported, tiny: MAViL's two towers and their fusion, one tower over single pictures, and
folders of other projects' layouts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from avssl.graph.graph import Graph
from avssl.train.run import train
from tests.train import tiny

# one picture in tubelets of one: a plain ViT over a picture, with a norm behind its last block
PICTURE_TOWER = """\
args: {width: 16, depth: 2, heads: 2, image: 32, norm_eps: 1.0e-6}
inputs:
  x: [B, 3, 1, "${args.image}", "${args.image}"]
  keep: {shape: [B, K], dtype: int64, optional: true}
modules:
  stem: {type: patch_embed_3d, channels: 3, width: "${args.width}", patch: [1, 16, 16]}
  positions:
    {type: sincos_3d, width: "${args.width}", size: [1, "${args.image}", "${args.image}"],
     patch: [1, 16, 16]}
  cls: {type: cls_token, width: "${args.width}"}
  encoder:
    {type: transformer, width: "${args.width}", depth: "${args.depth}", heads: "${args.heads}",
     norm_eps: "${args.norm_eps}"}
  norm: {type: layer_norm, width: "${args.width}", eps: "${args.norm_eps}"}
  pool: {type: pool_tokens}
nodes:
  patches: {call: stem, in: {x: batch.x, keep: batch.keep}}
  placed: {call: positions, in: {x: patches, keep: batch.keep}}
  with_cls: {call: cls, in: {x: placed}}
  encoded: {call: encoder, in: {x: with_cls}}
  normed: {call: norm, in: {x: encoded}}
  pooled: {call: pool, in: {x: normed}}
outputs: {tokens: normed, pooled: pooled}
"""
PICTURES = """\
args: {norm_eps: 1.0e-6}
inputs:
  video: [B, 3, 1, 32, 32]
modules:
  video: {type: graph, file: towers/picture.yaml, norm_eps: "${args.norm_eps}"}
  mask: {type: random_mask, ratio: 0.5, patch: [1, 16, 16]}
  nce: {type: info_nce, temperature: 0.2}
nodes:
  m: {call: mask, in: {like: batch.video}}
  a: {call: video, in: {x: batch.video, keep: m.keep}}
  b: {call: video, in: {x: batch.video}}
losses:
  match: {call: nce, in: {a: a.pooled, b: b.pooled}}
"""
EXPERIMENT = """\
name: pictures
run: {run}
data:
  source: never read
  batch: 8
  workers: 0
  inputs:
    video: {{type: frames, frames: 1, size: 32}}
train: {{lr: 1.0e-2, save_every: 5, log_every: 4}}
probe: {{every: 0, pictures: false}}
stages:
  only: {{graph: graphs/pictures.yaml, steps: 3}}
"""


def trained(path: Path, *overrides: str) -> Path:
    """Train an experiment file on random tensors; the run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avssl.train.clips.open_clips", tiny.TinyClips)
        train(path, ["train.device=cpu", *overrides])
    return path.parents[1] / "run"


@pytest.fixture(scope="session")
def mavil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MAViL's two stages with tiny towers."""
    folder = tmp_path_factory.mktemp("mavil")
    return trained(tiny.write(folder, tiny.MAVIL), "stages.stage1.steps=2", "stages.stage2.steps=2")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one tower, over single pictures, that ends in a norm."""
    return picture_run(tmp_path_factory.mktemp("pictures"))


def picture_run(folder: Path, *overrides: str) -> Path:
    """Train a tower over single pictures in `folder`; the run folder."""
    path = tiny.write(folder, EXPERIMENT, pictures=PICTURES)
    (folder / "configs" / "towers" / "picture.yaml").write_text(PICTURE_TOWER)
    return trained(path, *overrides)


def written(
    folder: Path,
    graph: str,
    args: Mapping[str, Any],
    *,
    window: float = 1.0,
    description: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> Path:
    """An encoder folder of a layout with random weights, at a size for tests."""
    path = tiny.CONFIGS / "graphs" / "encoders" / f"{graph}.yaml"
    args = {"width": 32, "depth": 2, "heads": 2, **args}
    built = Graph.from_file(path, args=args, seed=1)
    for parameter in built.parameters():  # norms and biases too, which begin at 1 and 0
        torch.nn.init.normal_(parameter, std=0.2)
    folder.mkdir()
    weights = {key: x.contiguous() for key, x in built.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    data = {"window": window, "inputs": inputs}
    file = {"name": graph, "graph": str(path), "args": args, "data": data}
    file["description"] = dict(description or {})
    (folder / "encoder.yaml").write_text(yaml.safe_dump(file))
    return folder
