"""What is listed after the first steps: missing gradients, straying teachers, moved frozen ones."""

from collections.abc import Callable
from pathlib import Path

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


def first_step(monkeypatch: pytest.MonkeyPatch, meddle: Meddle) -> tuple[list[str], set[str]]:
    """The findings of a real step with `meddle` done between the optimizer and the look, and the
    parameters without a gradient."""
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
    return health.after_step(graph, before, momenta), health.without_gradient(graph)


def test_a_sound_step_has_nothing_to_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_step(monkeypatch, lambda graph: None) == ([], set())


def test_trained_parameters_without_gradient_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def meddle(graph: Graph) -> None:
        graph.get_parameter("head.proj.bias").grad = None
        graph.get_parameter("audio.stem.proj.weight").grad.zero_()

    found, without = first_step(monkeypatch, meddle)
    assert found == [] and without == {"audio.stem.proj.weight", "head.proj.bias"}


@pytest.mark.parametrize("dead", [False, True])
def test_a_run_warns_of_what_no_step_gave_a_gradient(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    run: Callable[..., None],
    dead: bool,
) -> None:
    looks = iter(range(100))

    def without_gradient(graph: Graph) -> set[str]:
        return {"audio.stem.proj.weight"} if dead or next(looks) == 0 else set()

    monkeypatch.setattr(health, "without_gradient", without_gradient)
    run(tiny.write(tmp_path))
    said = "no gradient, or one of zeros, in any of the first 8 steps: audio.stem.proj.weight"
    assert (said in capsys.readouterr().out) == dead


def test_a_teacher_that_did_not_move_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def meddle(graph: Graph) -> None:
        teacher = graph.get_parameter("teacher.stem.proj.weight")
        teacher.copy_(graph.get_parameter("audio.stem.proj.weight"))

    (found,), _ = first_step(monkeypatch, meddle)
    assert "teacher.stem.proj.weight" in found and "momentum" in found


def test_a_frozen_module_that_moved_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,), _ = first_step(
        monkeypatch, lambda graph: graph.get_parameter("extra.proj.bias").add_(1)
    )
    assert found == "frozen parameters moved: extra.proj.bias"
