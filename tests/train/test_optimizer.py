"""Parameter groups, learning-rate schedule, clipping and EMA teachers."""

import math

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
