"""Small graphs of the methods whose students learn from trained teachers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avssl.graph.graph import Graph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Problems
from avssl.graph.spec import Reference

CONFIGS = Path(__file__).parents[2] / "configs"
GRAPHS = CONFIGS / "graphs"
SIZES = {"width": 32, "depth": 3, "heads": 2, "image": 32, "patch": 8}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
CLIP = {"frames": 4, "mask": 0.7}  # 4 of 16 places are seen, in each of 2 pairs of frames


def tiny(name: str, references: Mapping[str, Graph] | None = None, **args: Any) -> Graph:
    """The graph of a file at a small size; `references`: earlier stages by name."""
    earlier = {
        stage: Reference(graph.spec, graph.state_dict)
        for stage, graph in (references or {}).items()
    }
    given = {**SIZES, **args}
    return Graph.from_file(GRAPHS / f"{name}.yaml", args=given, references=earlier)


def paper_size(name: str, references: Mapping[str, Graph] | None = None, **args: Any) -> Graph:
    """On the meta device: shapes without memory."""
    problems = Problems()
    earlier = {stage: Reference(graph.spec, None) for stage, graph in (references or {}).items()}
    spec = read_graph(GRAPHS / f"{name}.yaml", problems, args=args, references=earlier)
    problems.raise_if_any()
    assert spec is not None
    connect(spec, problems)
    graph = Graph(spec, problems)
    problems.raise_if_any()
    return graph


def count(*modules: nn.Module) -> int:
    """Trained parameters."""
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)


def mae(**args: Any) -> Graph:
    return tiny("mae", **DECODER, **args)


def videomae(**args: Any) -> Graph:
    return tiny("videomae", **DECODER, **CLIP, **args)


def mvd(**args: Any) -> Graph:
    """With its two teachers, which are as wide as the student."""
    teachers = {"image_teacher": mae(), "video_teacher": videomae()}
    sizes = {"image_features": 32, "video_features": 32}
    return tiny("mvd", teachers, **DECODER, **CLIP, **{"drop_path": 0.0, **sizes, **args})


def mocov3(**args: Any) -> Graph:
    return tiny("mocov3", **{"hidden": 24, "embedding": 16, **args})


def mimco(**args: Any) -> Graph:
    sizes = {"teacher_width": 32, "hidden": 24, "mask_patch": 16}
    return tiny("mimco", {"previous": mocov3()}, **{**sizes, **args})


def dmae(**args: Any) -> Graph:
    """Of a teacher that is wider and deeper."""
    teacher = mae(width=48, depth=4, heads=3, tap=3)
    given = {"tap": 2, "teacher_width": 48, **args}
    return tiny("dmae", {"previous": teacher}, **DECODER, **given)


def image(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 1, 32, 32, generator=torch.Generator().manual_seed(7))


def clip(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 4, 32, 32, generator=torch.Generator().manual_seed(8))
