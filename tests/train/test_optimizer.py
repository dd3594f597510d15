"""Parameter groups, learning-rate schedule, clipping and EMA teachers."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import yaml

from avssl.graph.graph import Graph
from avssl.train.config import TrainConfig
from avssl.train.optimizer import (
    clip_gradients,
    layer_of,
    learning_rate,
    make_optimizer,
    peak_lr,
)
from avssl.train.teachers import update_teachers
from tests.train import tiny

NORMS = """
import torch
from avssl.registry import register

@register("normed")
class Normed(torch.nn.Module):
    outputs = ("out",)

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(width)
        self.drop = torch.nn.Dropout(0.5)

    def init_weights(self) -> None:
        self.norm.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(x))

@register("mean_error")
class MeanError(torch.nn.Module):
    outputs = ("loss",)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).square().mean()
"""
NORMED = """
plugins: [norms.py]
inputs: {x: [B, 4]}
modules:
  student: {type: normed, width: 4}
  teacher: {ema_of: student, momentum: 0.5, statistics: STATISTICS}
  error: {type: mean_error}
nodes:
  s: {call: student, in: {x: batch.x}}
  t: {call: teacher, in: {x: batch.x}}
losses:
  match: {call: error, in: {a: s, b: t}}
"""


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.chdir(tiny.CONFIGS)  # sub-graph files are found from here
    structure = yaml.safe_load(tiny.STUDENT)
    structure["modules"]["audio"] |= {"layer_decay": 0.5, "lr_scale": 2.0}
    return Graph.from_dict(structure)


def test_groups_hold_each_trained_parameter_once_and_spare_vectors(graph: Graph) -> None:
    optimizer = make_optimizer(graph, TrainConfig(weight_decay=0.3))
    names = {parameter: name for name, parameter in graph.named_parameters()}
    found = [names[p] for group in optimizer.param_groups for p in group["params"]]
    trained = [name for name in names.values() if name.startswith(("audio.", "head."))]
    assert sorted(found) == sorted(trained)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)


def test_layer_decay_counts_from_the_last_block(graph: Graph) -> None:
    """Two blocks: the last has 0.5 to the power 1, the first 2, the stem 3, all times lr_scale."""
    optimizer = make_optimizer(graph, TrainConfig())
    names = {parameter: name for name, parameter in graph.named_parameters()}
    scale = {
        names[p]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]
    }
    assert scale["audio.stem.proj.weight"] == pytest.approx(2 * 0.5**3)
    assert scale["audio.encoder.blocks.0.mlp.fc1.weight"] == pytest.approx(2 * 0.5**2)
    assert scale["audio.encoder.blocks.1.mlp.fc1.bias"] == pytest.approx(2 * 0.5**1)
    assert scale["head.proj.weight"] == 1.0


def test_layer_ends_may_be_joined_to_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAVEn: the last block is not slowed down, and the stem no more than the first block."""
    monkeypatch.chdir(tiny.CONFIGS)
    structure = yaml.safe_load(tiny.STUDENT)
    structure["modules"]["audio"] |= {"layer_decay": 0.5, "lr_scale": 2.0, "layer_ends": "joined"}
    graph = Graph.from_dict(structure)
    names = {parameter: name for name, parameter in graph.named_parameters()}
    groups = make_optimizer(graph, TrainConfig()).param_groups
    scale = {names[p]: group["lr_scale"] for group in groups for p in group["params"]}
    first, last = "audio.encoder.blocks.0.mlp.fc1.weight", "audio.encoder.blocks.1.mlp.fc1.bias"
    assert scale["audio.stem.proj.weight"] == scale[first] == pytest.approx(2 * 0.5)
    assert scale[last] == 2.0


def test_a_second_list_of_blocks_counts_on() -> None:
    """CAV-MAE: a stem, blocks of its own, a shared block behind them, and a norm."""

    def stack(depth: int) -> torch.nn.Module:
        return torch.nn.ModuleDict(
            {"blocks": torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(depth))}
        )

    parts = {"stem": torch.nn.Linear(2, 2), "own": stack(3), "between": torch.nn.LayerNorm(2)}
    parts |= {"shared": stack(2), "norm": torch.nn.LayerNorm(2)}
    found = layer_of(torch.nn.ModuleDict(parts))
    assert [found[f"own.blocks.{i}.weight"] for i in range(3)] == [(1, 6), (2, 6), (3, 6)]
    assert [found[f"shared.blocks.{i}.weight"] for i in range(2)] == [(4, 6), (5, 6)]
    assert found["stem.bias"] == (0, 6) and found["norm.bias"] == (6, 6)
    assert found["between.bias"] == (3, 6)


def test_learning_rate_follows_audiomae() -> None:
    """Half-cycle cosine after the warm-up (AudioMAE util/lr_sched.py), counted in steps."""
    rates = [learning_rate(s, peak=1.0, minimum=0.1, warmup=10, steps=111) for s in range(111)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    for step in range(10, 111):
        assert rates[step] == pytest.approx(
            0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 100))
        )
    assert rates[60] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1)


def test_learning_rate_can_follow_the_batch() -> None:
    assert peak_lr(TrainConfig(lr=2e-4), 512) == 2e-4
    assert peak_lr(TrainConfig(lr=2e-4, lr_rule="per_256"), 512) == pytest.approx(4e-4)


def test_each_module_is_clipped_by_itself(graph: Graph) -> None:
    for parameter in graph.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    graph.get_parameter("head.proj.weight").grad.fill_(3.0)
    graph.get_parameter("audio.stem.proj.bias").grad.fill_(0.01)
    norms = clip_gradients(graph, 1.0)
    assert norms["head"].item() == pytest.approx(3.0 * 16)  # 16 x 16 values of 3
    assert norms["audio"].item() == pytest.approx(0.04)
    assert graph.get_parameter("head.proj.weight").grad.norm().item() == pytest.approx(
        1.0, rel=1e-4
    )
    assert graph.get_parameter("audio.stem.proj.bias").grad.norm().item() == pytest.approx(0.04)


def test_teachers_follow_their_students(graph: Graph) -> None:
    """Momentum 0.9 at the start and 1 at the end: at half way of the cosine 0.95."""
    student = graph.get_parameter("audio.stem.proj.weight")
    teacher = graph.get_parameter("teacher.stem.proj.weight")
    assert torch.equal(student, teacher)
    old = teacher.detach().clone()
    with torch.no_grad():
        student.add_(1.0)
    assert update_teachers(graph, 0.5) == {"teacher": pytest.approx(0.95)}
    torch.testing.assert_close(teacher, old + 0.05)
    assert not teacher.requires_grad


def test_a_clip_group_shares_one_norm(graph: Graph) -> None:
    """3 and 4 are 5 together: clipped to 1, each keeps its share."""
    graph.options |= {
        name: dataclasses.replace(graph.options[name], clip_group="all")
        for name in ("audio", "head")
    }
    graph.get_parameter("head.proj.bias").grad = torch.eye(16)[0] * 3
    graph.get_parameter("audio.stem.proj.bias").grad = torch.eye(16)[0] * 4
    norms = clip_gradients(graph, 1.0)
    assert norms["head"].item() == 3 and norms["audio"].item() == 4
    assert graph.get_parameter("head.proj.bias").grad.norm().item() == pytest.approx(0.6, rel=1e-4)
    found = graph.get_parameter("audio.stem.proj.bias").grad.norm().item()
    assert found == pytest.approx(0.8, rel=1e-4)


def test_decay_may_spare_nothing(graph: Graph) -> None:
    groups = make_optimizer(graph, TrainConfig(weight_decay=0.3, decayed="all")).param_groups
    assert {group["weight_decay"] for group in groups} == {0.3}


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_a_teacher_keeps_or_copies_the_statistics(statistics: str, tmp_path: Path) -> None:
    """RAVEn's teacher normalises by its own batches: only its BatchNorms train, and an update moves
    parameters alone."""
    (tmp_path / "norms.py").write_text(NORMS)
    path = tmp_path / "graph.yaml"
    path.write_text(NORMED.replace("STATISTICS", statistics))
    graph = Graph.from_file(path).train()
    student, teacher = graph.get_submodule("student"), graph.get_submodule("teacher")
    training = {name for name, module in teacher.named_modules() if module.training}
    assert training == ({"norm"} if statistics == "batch" else set())
    x = torch.randn(64, 4) * 3 + 5
    graph({"x": x})
    given = teacher(x=x)
    own = teacher.norm.running_mean.clone()
    update_teachers(graph, 0.0)
    if statistics == "batch":
        torch.testing.assert_close(
            given, torch.nn.functional.batch_norm(x, None, None, training=True)
        )
        assert torch.equal(teacher.norm.running_mean, own)
    else:
        torch.testing.assert_close(given, x / (1 + 1e-5) ** 0.5)  # statistics of a fresh BatchNorm
        assert torch.equal(teacher.norm.running_mean, student.norm.running_mean)
    assert not graph.eval().get_submodule("teacher").norm.training
