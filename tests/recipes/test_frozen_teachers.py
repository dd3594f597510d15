"""Frozen teachers in all methods that have one: no gradient, one call per step, own precision."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from avssl.graph.graph import Graph
from avssl.train.config import TrainConfig
from avssl.train.precision import teacher_dtype
from tests.recipes.ranks import Job, Run
from tests.recipes.students import clip, dmae, image, mimco, mvd

METHODS: dict[str, tuple[Callable[[], Graph], str, Callable[[], Tensor]]] = {
    "mvd": (mvd, "video", clip),
    "mimco": (mimco, "image", image),
    "dmae": (dmae, "image", image),
}
method = pytest.mark.parametrize("name", METHODS)


def made(name: str) -> tuple[Graph, dict[str, Tensor], list[str]]:
    """A graph in training, a batch, and its teachers."""
    build, key, data = METHODS[name]
    graph = build().train()
    teachers = [n for n, module in graph.spec.modules.items() if module.kind == "frozen"]
    assert teachers
    return graph, {key: data()}, teachers


@contextmanager
def kept_for_backward(module: nn.Module) -> Iterator[list[Tensor]]:
    """The tensors that autograd keeps while `module` runs."""
    kept: list[Tensor] = []
    inside: list[int] = []
    handles = [
        module.register_forward_pre_hook(lambda *_: inside.append(1)),
        module.register_forward_hook(lambda *_: inside.clear()),
    ]

    def pack(tensor: Tensor) -> Tensor:
        if inside:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
    for handle in handles:
        handle.remove()


@method
def test_nothing_is_kept_of_a_teacher_for_the_backward_pass(name: str) -> None:
    graph, batch, teachers = made(name)
    for teacher in teachers:
        with kept_for_backward(graph.get_submodule(teacher)) as kept:
            sum(graph(batch).values()).backward()
        assert not kept
    student = graph.get_submodule("video" if name == "mvd" else "image")
    with kept_for_backward(student) as kept:
        graph(batch)
    assert kept  # the same look at a trained module finds what it keeps


@method
def test_a_teacher_runs_once_per_step_also_where_activations_are_computed_anew(name: str) -> None:
    graph, batch, teachers = made(name)
    for module in graph.modules():
        if hasattr(module, "checkpoint_activations"):
            module.checkpoint_activations = True
    runs = dict.fromkeys(teachers, 0)

    def count(teacher: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            runs[teacher] += 1

        return hook

    for teacher in teachers:
        block = graph.get_submodule(f"{teacher}.encoder.blocks.0")
        block.register_forward_hook(count(teacher))
    sum(graph(batch).values()).backward()
    assert set(runs.values()) == {1}


def two_steps(graph: Graph, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """The state before two steps of training, and the names of what moved in them."""
    run = Run(Job(lambda: graph, lambda *_: batch, {}), "single")
    before = {name: item.clone() for name, item in graph.state_dict().items()}
    for step in range(2):
        run.step(step, of=2)
    after = graph.state_dict()
    assert set(after) == set(before)
    return before, {name for name in after if not torch.equal(after[name], before[name])}


@method
def test_teachers_are_bit_identical_after_two_steps_in_which_the_student_moves(name: str) -> None:
    graph, batch, teachers = made(name)
    before, moved = two_steps(graph, batch)
    mine = {key for key in before if key.split(".")[0] in teachers}
    assert any(key.endswith("positions.table") for key in mine)  # buffers, too
    assert not moved & mine
    trained = {key for key, parameter in graph.named_parameters() if parameter.requires_grad}
    assert trained <= moved
    assert all(".running_" in key or ".num_batches" in key for key in moved - trained)


def test_the_statistics_of_a_frozen_batch_norm_stay() -> None:
    projector = {"type": "projector", "width": 8, "hidden": 6, "out": 4}
    structure = {
        "inputs": {"x": ["B", 8]},
        "modules": {
            "student": projector,
            "teacher": {**projector, "freeze": True},
            "match": {"type": "match_vectors", "kind": "mse"},
        },
        "nodes": {
            "s": {"call": "student", "in": {"x": "batch.x"}},
            "t": {"call": "teacher", "in": {"x": "batch.x"}},
        },
        "losses": {"match": {"call": "match", "in": {"prediction": "s", "target": "t"}}},
    }
    before, moved = two_steps(Graph.from_dict(structure).train(), {"x": torch.randn(16, 8) + 3})
    assert sum("running" in name for name in before) == 2 * 6
    assert sum("running" in name for name in moved) == 6
    assert all(name.startswith("student.") for name in moved)


def test_nothing_is_kept_of_a_frozen_module_that_reads_the_batch() -> None:
    tower = {"type": "transformer", "width": 8, "depth": 1, "heads": 2}
    structure = {
        "inputs": {"x": ["B", 4, 8], "y": ["B", 8]},
        "modules": {
            "tower": {**tower, "freeze": True},
            "pool": {"type": "pool_tokens", "prefix": 0},
            "head": {"type": "linear", "width": 8, "out": 8},
            "nce": {"type": "info_nce", "temperature": 0.1},
        },
        "nodes": {
            "t": {"call": "tower", "in": {"x": "batch.x"}},
            "p": {"call": "pool", "in": {"x": "t"}},
            "h": {"call": "head", "in": {"x": "p"}},
        },
        "losses": {"nce": {"call": "nce", "in": {"a": "h", "b": "batch.y"}}},
    }
    graph = Graph.from_dict(structure).train()
    assert not graph.get_submodule("tower").training
    batch = {"x": torch.randn(2, 4, 8), "y": torch.randn(2, 8)}
    with kept_for_backward(graph.get_submodule("tower")) as kept:
        graph(batch)["nce"].backward()
    assert not kept and graph.get_submodule("head.proj").get_parameter("weight").grad is not None


@method
def test_teachers_in_bf16_give_the_losses_of_fp32(name: str) -> None:
    graph, batch, teachers = made(name)
    found = {}
    seen: set[torch.dtype] = set()
    block = graph.get_submodule(f"{teachers[0]}.encoder.blocks.0.mlp.fc1")
    block.register_forward_hook(lambda _, given, out: seen.add(out.dtype))
    for dtype in (None, torch.float32, torch.bfloat16):
        graph.teacher_dtype = dtype
        torch.manual_seed(0)
        seen.clear()
        found[dtype] = graph(batch)
        assert seen == {torch.bfloat16 if dtype == torch.bfloat16 else torch.float32}
        assert all(loss.dtype == torch.float32 for loss in found[dtype].values())
    for loss, exact in found[None].items():
        assert torch.equal(found[torch.float32][loss], exact)
        assert not torch.equal(found[torch.bfloat16][loss], exact) or loss == "pixels"
        torch.testing.assert_close(found[torch.bfloat16][loss], exact, rtol=2e-2, atol=1e-3)


def test_fp32_teachers_of_a_student_in_bf16() -> None:
    graph, batch, _ = made("mvd")
    graph.teacher_dtype = torch.float32
    exact = graph(batch, ["it", "vt"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = graph(batch, ["it", "vt", "ih"])
    assert under["ih"].dtype == torch.bfloat16
    assert all(torch.equal(under[key], exact[key]) for key in ("it", "vt"))


@pytest.mark.parametrize(
    ("device", "wanted", "bf16", "expected"),
    [
        ("cpu", "auto", False, None),
        ("cpu", "auto", True, None),
        ("cpu", "bf16", False, torch.bfloat16),
        ("cpu", "fp32", True, torch.float32),
        ("cpu", "bf16", True, None),
        ("cuda", "auto", False, torch.bfloat16),
        ("cuda", "auto", True, None),
        ("cuda", "fp32", False, None),
    ],
)
def test_the_precision_of_teachers_follows_the_device_and_the_configuration(
    device: str,
    wanted: str,
    bf16: bool,
    expected: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    precision = "bf16" if bf16 else "fp32"
    config = TrainConfig(teacher_precision=wanted, precision=precision)  # type: ignore[arg-type]
    assert teacher_dtype(config, torch.device(device)) == expected
