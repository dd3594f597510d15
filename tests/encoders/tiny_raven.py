"""RAVEn's towers, tiny and with random weights, as a folder that `avssl.load` reads."""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from avssl.graph.graph import Graph
from tests.train.tiny import CONFIGS

GRAPH = """\
inputs:
  video: [B, 1, T, 32, 32]
  audio: [B, T, 640]
  frames: {shape: [V], dtype: int64, optional: true}
modules:
  video: {type: graph, file: towers/raven_video.yaml, SIZES}
  audio: {type: graph, file: towers/raven_audio.yaml, SIZES}
nodes:
  v: {call: video, in: {x: batch.video, frames: batch.frames}}
  a: {call: audio, in: {x: batch.audio, frames: batch.frames}}
outputs: {v: v.pooled, a: a.pooled}
""".replace("SIZES", "channels: 8, features: 64, width: 16, depth: 2, heads: 2, hidden: 16")
ENCODER = """\
name: tiny_raven
graph: graphs/two.yaml
data:
  lengths: {budget: 120, longest: 1.6, shortest: 0.4, buckets: 2}
  inputs:
    video: {type: lips, size: 32, stored: 36}
    audio: {type: wave}
"""


def write_raven(folder: Path) -> Path:
    """Both towers, of clips that keep their own length."""
    shutil.copytree(CONFIGS / "towers", folder / "towers")
    (folder / "graphs").mkdir()
    (folder / "graphs" / "two.yaml").write_text(GRAPH)
    (folder / "encoder.yaml").write_text(ENCODER)
    graph = Graph.from_file(folder / "graphs" / "two.yaml", seed=0)
    save_file(graph.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
