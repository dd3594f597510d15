"""What is listed after the first step: missing gradients, straying teachers, moved frozen ones."""

from collections.abc import Callable

import pytest
import torch
import yaml

from avssl.graph.graph import Graph
from avssl.train import health
from avssl.train.config import TrainConfig
from avssl.train.optimizer import make_optimizer
from avssl.train.teachers import update_teachers
from tests.train import tiny

Meddle = Callable[[Graph], None]


def first_step(monkeypatch: pytest.MonkeyPatch, meddle: Meddle) -> list[str]:
    """The findings of a real step with `meddle` done between the optimizer and the look."""
    monkeypatch.chdir(tiny.CONFIGS)
    structure = yaml.safe_load(tiny.STUDENT)
    structure["modules"]["extra"] = {"type": "linear", "width": 16, "out": 16}
    structure["modules"]["extra"]["freeze"] = True
    structure["nodes"]["q"] = {"call": "extra", "in": {"x": "p"}}
    structure["losses"]["match"]["in"]["a"] = "q"
    graph = Graph.from_dict(structure).train()
    before = health.before_step(graph)
    optimizer = make_optimizer(graph, TrainConfig())
    graph({"audio": torch.randn(4, 1, 32, 32)})["match"].backward()
    optimizer.step()
    momenta = update_teachers(graph, 0.0)
    with torch.no_grad():
        meddle(graph)
    return health.after_step(graph, before, momenta)


def test_a_sound_step_has_nothing_to_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_step(monkeypatch, lambda graph: None) == []


def test_trained_parameters_without_gradient_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def meddle(graph: Graph) -> None:
        graph.get_parameter("head.proj.bias").grad = None
        graph.get_parameter("audio.stem.proj.weight").grad.zero_()

    (found,) = first_step(monkeypatch, meddle)
    assert "no gradient" in found and "audio.stem.proj.weight, head.proj.bias" in found


def test_a_teacher_that_did_not_move_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def meddle(graph: Graph) -> None:
        teacher = graph.get_parameter("teacher.stem.proj.weight")
        teacher.copy_(graph.get_parameter("audio.stem.proj.weight"))

    (found,) = first_step(monkeypatch, meddle)
    assert "teacher.stem.proj.weight" in found and "momentum" in found


def test_a_frozen_module_that_moved_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = first_step(monkeypatch, lambda graph: graph.get_parameter("extra.proj.bias").add_(1))
    assert found == "frozen parameters moved: extra.proj.bias"
