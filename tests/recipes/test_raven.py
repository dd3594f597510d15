"""RAVEn (arXiv 2212.06246): the reference behaviours of its pre-training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avssl.blocks.batch_norm import BatchNorm
from avssl.graph.graph import Graph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Problems
from avssl.train.experiment import load_experiment
from avssl.train.probes import splits
from avssl.train.teachers import update_teachers
from tests.recipes.raven import (
    CONFIGS,
    GRAPH,
    LENGTHS,
    batch,
    indices,
    rows,
    tiny,
    without_predictors,
)

BASE_PLUS = {"width": 768, "heads": 12, "hidden": 3072}
LARGE = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def paper_size(**args: Any) -> Graph:
    """On the meta device: shapes without memory."""
    problems = Problems()
    spec = read_graph(GRAPH, problems, args=args)
    assert spec is not None
    connect(spec, problems)
    graph = Graph(spec, problems)
    problems.raise_if_any()
    return graph


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("args", "transformer", "video", "audio", "predictor"),
    [
        ({}, 41.26, 52.45, 45.11, 7.36),
        (BASE_PLUS, 92.57, 103.75, 96.41, None),
        (LARGE, 328.10, 339.28, 331.95, 7.88),
    ],
)
def test_sizes_are_those_of_the_paper(
    args: dict[str, int], transformer: float, video: float, audio: float, predictor: float | None
) -> None:
    graph = paper_size(**args)
    tower = graph.get_submodule("video")
    inner = count(tower) - count(tower.get_submodule("stem"))
    assert inner / 1e6 == pytest.approx(transformer, abs=0.006)
    assert count(tower) / 1e6 == pytest.approx(video, abs=0.006)
    assert count(graph.get_submodule("audio")) / 1e6 == pytest.approx(audio, abs=0.006)
    if predictor is not None:
        for name in ("video_to_audio", "audio_to_audio", "audio_to_video"):
            assert count(graph.get_submodule(name)) / 1e6 == pytest.approx(predictor, abs=0.006)
    if not args:
        assert count(tower) // 1000 == 52_445
        assert count(graph.get_submodule("audio")) // 1000 == 45_111


@pytest.mark.parametrize(
    ("name", "lr", "warmup", "budget", "width", "drop_path"),
    [
        ("raven_base_lrs3", 3e-3, 40, 32 * 2400, 512, 0.0),
        ("raven_base_vox2", 3e-3, 20, 32 * 2400, 512, 0.0),
        ("raven_large_vox2", 2e-3, 30, 128 * 900, 1024, 0.1),
    ],
)
def test_configurations_have_the_numbers_of_the_paper(
    name: str, lr: float, warmup: float, budget: int, width: int, drop_path: float
) -> None:
    experiment = load_experiment(CONFIGS / "paper" / f"{name}.yaml", shapes=False)
    config, train = experiment.config, experiment.config.train
    assert config.data.lengths is not None and config.data.lengths.budget == budget
    assert (train.lr, train.warmup, train.min_lr) == (lr, warmup, 1e-5)
    assert (train.weight_decay, train.decayed, train.betas) == (0.04, "all", [0.9, 0.999])
    assert (train.clip, train.precision) == (3.0, "fp32")
    (instance,) = experiment.instances
    arguments = instance.spec.arguments
    assert (arguments["width"], arguments["drop_path"]) == (width, drop_path)
    masks = (arguments["mask_kind"], arguments["mask_share"], arguments["mask_span"])
    assert masks == ("span_fraction", 0.2, 3) and arguments["momentum"] == 0.999
    directions = ("video_to_audio", "video_to_video", "audio_to_audio", "audio_to_video")
    assert [arguments[direction] for direction in directions] == [1, 0, 1, 1]
    assert (arguments["layer_scale"], arguments["norm_eps"]) == (0.1, 1e-12)
    assert arguments["dropout"] == arguments["attention_dropout"] == 0.1
    assert config.stages["pretrain"].epochs == 150
    assert splits(experiment) == []  # the manifests of the heads' commands have train clips alone


def test_both_towers_give_a_vector_per_frame() -> None:
    graph = paper_size(depth=1)
    for time in (1, 7):
        video = torch.empty(2, 1, time, 88, 88, device="meta")
        audio = torch.empty(2, time, 640, device="meta")
        for name, x in (("video", video), ("audio", audio)):
            tower = graph.get_submodule(name)
            assert tower.get_submodule("stem")(x).shape == (2, time, 512)
            assert tower(x=x)["tokens"].shape == (2, time, 512)


@pytest.mark.parametrize("name", ["video", "audio"])
def test_a_padded_batch_equals_one_clip_at_a_time(name: str) -> None:
    graph, whole = tiny(), batch()
    graph(whole)  # running statistics that are not 0 and 1
    tower = graph.eval().get_submodule(name)
    padded = tower(x=whole[name], frames=whole["frames"])
    for row, length in enumerate(LENGTHS):
        x = whole[name][row : row + 1]
        alone = tower(x=x[:, :, :length] if name == "video" else x[:, :length])
        torch.testing.assert_close(
            padded["tokens"][row : row + 1, :length], alone["tokens"], **CLOSE
        )
        torch.testing.assert_close(padded["pooled"][row : row + 1], alone["pooled"], **CLOSE)
        assert not padded["tokens"][row, length:].any()


@pytest.mark.parametrize("name", ["video", "audio"])
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(name: str, training: bool) -> None:
    """Neither how much of it there is nor what stands in it, BatchNorm's statistics included."""
    tower, whole = tiny().get_submodule(name).train(training), batch()
    x, axis = whole[name], 2 if name == "video" else 1
    expected = tower(x=x, frames=whole["frames"])["tokens"]
    shape = list(x.shape)
    shape[axis] = 3
    longer = torch.cat([x, torch.full(shape, 7.0)], dim=axis)
    for row, length in enumerate(LENGTHS):
        longer[row].movedim(axis - 1, 0)[length:] = 5.0
    time = max(LENGTHS) + 3
    found = tower(x=longer, frames=indices(LENGTHS, time))["tokens"]
    torch.testing.assert_close(found[:, :-3], expected, **CLOSE)


def test_in_training_clips_touch_in_batch_norm_alone() -> None:
    whole = batch()
    args = {"ffn_norm": "layer"}
    tower = tiny(**args).get_submodule("video")
    for part in tower.modules():
        if isinstance(part, BatchNorm):
            part.eval()
    padded = tower(x=whole["video"], frames=whole["frames"])["tokens"]
    alone = tower(x=whole["video"][3:, :, :5])["tokens"]
    torch.testing.assert_close(padded[3:, :5], alone, **CLOSE)
    touched = tiny(**args).get_submodule("video")
    padded = touched(x=whole["video"], frames=whole["frames"])["tokens"]
    assert not torch.allclose(padded[3:, :5], touched(x=whole["video"][3:, :, :5])["tokens"])


def test_teachers_never_see_the_mask_and_get_no_gradient() -> None:
    graph, whole = tiny(), batch()
    names = ["tv.tokens", "ta.tokens", "vm", "am", "v.tokens"]
    torch.manual_seed(1)
    first = graph(whole, names)
    torch.manual_seed(2)
    second = graph(whole, names)
    for name in ("tv.tokens", "ta.tokens"):
        assert torch.equal(first[name], second[name]) and not first[name].requires_grad
    for name in ("vm", "am", "v.tokens"):
        assert not torch.equal(first[name], second[name])
    assert not torch.equal(first["vm"], first["am"])  # each student has its own
    total(graph, whole).backward()
    for name in ("teacher_video", "teacher_audio"):
        for parameter in graph.get_submodule(name).parameters():
            assert parameter.grad is None and not parameter.requires_grad


def test_teachers_follow_the_students_parameters_alone() -> None:
    graph, whole = tiny(dropout=0.1), batch()
    graph(whole)
    teacher, student = graph.get_submodule("teacher_video"), graph.get_submodule("video")
    for parameter in student.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    old = {name: item.clone() for name, item in teacher.state_dict().items()}
    assert update_teachers(graph, 0.0) == {"teacher_video": 0.999, "teacher_audio": 0.999}
    for name, parameter in teacher.named_parameters():
        expected = 0.999 * old[name] + 0.001 * student.get_parameter(name)
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)
    for name, buffer in teacher.named_buffers():
        assert torch.equal(buffer, old[name])
    still = {name: item.clone() for name, item in teacher.state_dict().items()}
    assert update_teachers(graph, 1.0)["teacher_video"] == 1.0
    for name, item in teacher.state_dict().items():
        assert torch.equal(item, still[name])
    momenta = [graph.teachers["teacher_video"].momentum(step / 50) for step in range(51)]
    assert momenta == sorted(momenta) and momenta[0] == 0.999 and momenta[-1] == 1.0


def test_teachers_normalise_by_their_batch_without_dropout() -> None:
    graph, whole = tiny(dropout=0.3, attention_dropout=0.3, drop_path=0.3), batch()
    first, second = (graph(whole, ["tv.tokens"])["tv.tokens"] for _ in range(2))
    assert torch.equal(first, second)
    alone = graph(rows(whole, 0, 1), ["tv.tokens"])["tv.tokens"]
    assert not torch.allclose(first[:1], alone, atol=1e-3)


def test_each_student_learns_from_its_own_losses() -> None:
    graph, whole = tiny(), batch()
    other = {"l_va": "audio", "l_aa": "video", "l_av": "video"}
    for name, module in other.items():
        graph.zero_grad(set_to_none=True)
        graph(whole, [name])[name].backward()
        assert all(p.grad is None for p in graph.get_submodule(module).parameters())
        own = "video" if module == "audio" else "audio"
        for key, parameter in graph.get_submodule(own).named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_clip_groups_join_a_student_and_its_predictors() -> None:
    options = paper_size().options
    groups = {name: item.clip_group for name, item in options.items() if item.clip_group}
    assert groups == {
        "video": "video",
        "video_to_audio": "video",
        "video_to_video": "video",
        "audio": "audio",
        "audio_to_audio": "audio",
        "audio_to_video": "audio",
    }


@pytest.mark.parametrize(
    ("weight", "loss", "value"),
    [
        ("video_to_audio", "l_va", 0.0),
        ("audio_to_audio", "l_aa", 0.0),
        ("audio_to_video", "l_av", 0.0),
        ("video_to_video", "l_vv", 1.0),
    ],
)
def test_a_weight_takes_a_direction_in_or_out(weight: str, loss: str, value: float) -> None:
    graph, whole = tiny(**{weight: value}), batch()
    assert (loss in graph(whole)) == (weight not in graph.frozen) == (value > 0)
    total(graph, whole).backward()


def test_without_batch_norm_in_front_of_the_feed_forward_layers() -> None:
    graph = tiny(ffn_norm="layer", layer_scale=0.0)
    norms = [name for name, part in graph.named_modules() if isinstance(part, BatchNorm)]
    assert norms and not any("encoder" in name or "decoder" in name for name in norms)
    total(graph, batch()).backward()


def test_recomputed_activations_give_the_same_step() -> None:
    """Gradients, and running statistics that saw the batch once."""
    found = []
    for recompute in (False, True):
        graph = tiny(dropout=0.2, drop_path=0.3)
        for part in graph.modules():
            if hasattr(part, "checkpoint_activations"):
                part.checkpoint_activations = recompute
        torch.manual_seed(5)
        total(graph, batch()).backward()
        buffers = dict(graph.get_submodule("video").named_buffers())
        assert buffers["encoder.blocks.0.norm2.num_batches_tracked"] == 1
        found.append(
            [*(p.grad for p in graph.parameters() if p.grad is not None), *buffers.values()]
        )
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.long
def test_without_predictors_targets_collapse_faster() -> None:
    found = []
    for graph in (tiny(depth=1, momentum=0.9), without_predictors(depth=1, momentum=0.9)):
        trained = [parameter for parameter in graph.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, 3e-3)
        for step in range(30):
            torch.manual_seed(step)
            total(graph, batch((8, 8, 8, 8), image=8, seed=step % 4)).backward()
            optimizer.step()
            optimizer.zero_grad()
            update_teachers(graph, 0.0)
        found.append(graph(batch((8, 8, 8, 8), image=8), ["cv.std", "ca.std"]))
    assert found[1]["cv.std"] < 0.7 * found[0]["cv.std"]
    assert found[1]["ca.std"] < 0.7 * found[0]["ca.std"]


@pytest.mark.long
def test_compiles_whole() -> None:
    torch.compiler.reset()
    graph, whole = tiny(depth=1), batch()
    torch.manual_seed(3)
    expected = graph(whole)
    compiled = torch.compile(tiny(depth=1), fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    for name, value in compiled(whole).items():
        torch.testing.assert_close(value, expected[name])


def total(graph: Graph, whole: dict[str, Tensor]) -> Tensor:
    losses = graph(whole)
    value = sum(graph.losses[name].weight(0.0) * loss for name, loss in losses.items())
    assert isinstance(value, Tensor)
    return value
