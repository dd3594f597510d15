"""MAViL (arXiv 2212.08071): the reference behaviours of its two stages."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from avssl.blocks.layers import LayerNorm, Linear
from avssl.graph.graph import Graph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Problems
from avssl.graph.spec import Reference
from avssl.train.experiment import load_experiment

GRAPHS = Path(__file__).parents[2] / "configs" / "graphs"
STAGE1, STAGE2 = GRAPHS / "mavil_stage1.yaml", GRAPHS / "mavil_stage2.yaml"
SMALL = {
    "width": 32,
    "depth": 2,
    "heads": 4,
    "fusion_depth": 1,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "mel_frames": 128,
    "mel_bins": 32,
    "frames": 4,
    "image": 48,
}  # 16 patches of sound, 18 of picture; 3 of each are seen
RECONSTRUCTION = {"audio", "video", "fusion"}


def small_batch(clips: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(11)
    return {"audio": torch.randn(clips, 1, 128, 32), "video": torch.randn(clips, 3, 4, 48, 48)}


def stage1(**args: Any) -> Graph:
    return Graph.from_file(STAGE1, args={**SMALL, **args})


def stage2(previous: Graph, **args: Any) -> Graph:
    references = {"previous": Reference(previous.spec, previous.state_dict)}
    return Graph.from_file(STAGE2, args={**SMALL, **args}, references=references, seed=1)


def paper_size(file: Path) -> Graph:
    """The graph with its default arguments, on the meta device: shapes without memory."""
    problems = Problems()
    first = read_graph(STAGE1, problems)
    assert first is not None
    connect(first, problems)
    spec = first
    if file != STAGE1:
        second = read_graph(file, problems, references={"previous": Reference(first)})
        assert second is not None
        connect(second, problems)
        spec = second
    graph = Graph(spec, problems)
    problems.raise_if_any()
    return graph


def paper_batch() -> dict[str, Tensor]:
    shapes = {"audio": (2, 1, 1024, 128), "video": (2, 3, 8, 224, 224)}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def trained(graph: Graph, *modules: str) -> int:
    """Trained numbers of some modules."""
    return sum(
        parameter.numel()
        for name in modules
        for parameter in graph.get_submodule(name).parameters()
        if parameter.requires_grad
    )


def with_gradient(graph: Graph, loss: str) -> set[str]:
    """Parameters that ``loss`` reaches with a gradient other than zero."""
    graph.zero_grad()
    torch.manual_seed(0)
    graph(small_batch(), [loss])[loss].backward()
    return {
        name
        for name, parameter in graph.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


def of(graph: Graph, *modules: str) -> set[str]:
    return {name for name, _ in graph.named_parameters() if name.split(".")[0] in modules}


# Sizes and shapes of the paper


@pytest.mark.parametrize(
    ("modules", "count"),
    [
        (["audio"], 85_252_608),
        (["video"], 86_235_648),
        (["fusion"], 14_175_744),
        (["audio_decoder", "audio_head"], 25_745_664),
        (["video_decoder", "video_head"], 26_402_304),
    ],
)
def test_parameter_counts(modules: list[str], count: int) -> None:
    assert trained(paper_size(STAGE1), *modules) == count


def test_encoders_with_positions_are_the_187_million_of_the_released_model() -> None:
    graph = paper_size(STAGE1)
    state = graph.state_dict()
    keys = [key for key in state if key.split(".")[0] in RECONSTRUCTION]
    assert round(sum(state[key].numel() for key in keys) / 1e6, 1) == 186.7


def test_fine_tuned_audio_tower_has_the_logged_number_of_parameters() -> None:
    norm, head = LayerNorm(width=768), Linear(width=768, out=527)
    extra = sum(p.numel() for module in (norm, head) for p in module.parameters())
    assert trained(paper_size(STAGE1), "audio") + extra == 85_659_407


def test_shapes_of_stage_1() -> None:
    graph, lengths = paper_size(STAGE1), []
    graph.get_submodule("fusion.encoder").register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["x"].shape[1]), with_kwargs=True
    )
    ports = ["am1.keep", "vm1.keep", "a1.tokens", "v1.tokens", "a1.pooled", "ah", "vh"]
    shapes = {name: list(x.shape) for name, x in graph(paper_batch(), ports).items()}
    assert shapes == {
        "am1.keep": [2, 102],
        "vm1.keep": [2, 156],
        "a1.tokens": [2, 103, 768],
        "v1.tokens": [2, 157, 768],
        "a1.pooled": [2, 768],
        "ah": [2, 512, 256],
        "vh": [2, 784, 1536],
    }
    assert lengths == [260]


def test_shapes_of_stage_2() -> None:
    ports = ["ta.tokens", "tv.tokens", "at", "vt", "ah", "vh"]
    found = paper_size(STAGE2)(paper_batch(), ports)
    assert {name: list(x.shape) for name, x in found.items()} == {
        "ta.tokens": [2, 513, 768],
        "tv.tokens": [2, 785, 768],
        "at": [2, 512, 768],
        "vt": [2, 784, 768],
        "ah": [2, 512, 768],
        "vh": [2, 784, 768],
    }


def test_weights_and_temperatures_are_the_recipes() -> None:
    graph = paper_size(STAGE1)
    weights = {name: loss.weight(0.5) for name, loss in graph.losses.items()}
    assert weights == {"audio_raw": 1.0, "video_raw": 1.0, "inter": 0.1, "intra": 0.01}
    assert graph.get_submodule("inter_nce").temperature == 0.1
    assert graph.get_submodule("intra_nce").temperature == 1.0


def test_both_stages_take_the_same_arguments() -> None:
    first, second = (yaml.safe_load(file.read_text())["args"] for file in (STAGE1, STAGE2))
    assert list(first.items()) == list(second.items())


# What reaches what


@pytest.mark.parametrize("loss", ["inter", "intra"])
def test_contrast_reaches_the_towers_alone(loss: str) -> None:
    graph = stage1()
    reached = with_gradient(graph, loss)
    assert reached == of(graph, "audio", "video")


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_reconstruction_reaches_towers_fusion_and_its_decoder(modality: str) -> None:
    graph = stage1()
    reached = with_gradient(graph, f"{modality}_raw")
    assert reached == of(graph, *RECONSTRUCTION, f"{modality}_decoder", f"{modality}_head")


@pytest.mark.parametrize("zero", [{}, {"alpha": 0.0}, {"beta": 0.0}, {"alpha": 0.0, "beta": 0.0}])
@pytest.mark.parametrize("stage", [1, 2])
def test_no_trained_parameter_is_left_without_a_gradient(
    zero: dict[str, float], stage: int
) -> None:
    graph = stage1(**zero) if stage == 1 else stage2(stage1(), **zero)
    losses = graph(small_batch())
    assert len(losses) == 4 - len(zero)
    sum(losses.values()).backward()
    missing = [n for n, p in graph.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_without_the_intra_contrast_the_second_view_is_not_computed() -> None:
    calls = [call.name for call in stage1(beta=0.0).calls]
    assert "a1" in calls and not {"am2", "vm2", "a2", "v2", "intra_a", "intra_v"} & set(calls)


# Masks


def test_the_two_views_and_the_two_clips_have_different_masks() -> None:
    masks = stage1()(small_batch(), ["am1.mask", "am2.mask", "vm1.mask", "vm2.mask"])
    assert not torch.equal(masks["am1.mask"], masks["am2.mask"])
    assert not torch.equal(masks["vm1.mask"], masks["vm2.mask"])
    assert len(masks["am1.mask"].unique(dim=0)) == 4
    assert masks["am1.mask"].sum(1).tolist() == [13] * 4  # floor(16 * 0.2) = 3 are seen
    assert masks["vm1.mask"].sum(1).tolist() == [15] * 4


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_tower_sees_nothing_of_hidden_patches(modality: str) -> None:
    graph, batch = stage1(), small_batch()
    node, mask = modality[0] + "1.tokens", modality[0] + "m1.mask"
    torch.manual_seed(0)
    before = graph(batch, [node, mask])
    batch[modality] = batch[modality].clone()
    sizes = {"audio": (8, 2), "video": (2, 3, 3)}[modality]
    pixels = before[mask].view(4, 1, *sizes)
    lengths = {"audio": (16, 16), "video": (2, 16, 16)}[modality]
    for axis, length in enumerate(lengths):
        pixels = pixels.repeat_interleave(length, dim=2 + axis)
    batch[modality] += 100 * pixels
    torch.manual_seed(0)
    assert torch.equal(graph(batch, [node])[node], before[node])


def test_contrasts_at_random_weights_are_near_log_of_the_batch() -> None:
    graph = stage1(inter_temperature=1.0, gather=False)
    losses = graph(small_batch(clips=16), ["inter", "intra"])
    assert abs(losses["inter"].item() - math.log(16)) < 0.1
    assert abs(losses["intra"].item() - math.log(16)) < 0.1


def test_the_log_tells_how_hard_the_contrast_is() -> None:
    figures = stage1()(small_batch(), ["match.accuracy", "match.negatives"])
    assert figures["match.negatives"].item() == 3
    assert 0 <= figures["match.accuracy"].item() <= 1


# Stage 2


def test_teacher_sees_everything_of_both() -> None:
    first, batch = stage1(), small_batch()
    second, lengths = stage2(first), []
    for name in ("audio", "video"):
        second.get_submodule(f"teacher_{name}.encoder").register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(kwargs["x"].shape[1]), with_kwargs=True
        )
    targets = second(batch, ["at", "vt"])
    assert lengths == [17, 19]
    with torch.no_grad():
        audio = first.get_submodule("audio")(x=batch["audio"])["tokens"]
        video = first.get_submodule("video")(x=batch["video"])["tokens"]
        fused = first.get_submodule("fusion")(audio=audio, video=video)
    assert torch.equal(targets["at"], fused["audio"][:, 1:])
    assert torch.equal(targets["vt"], fused["video"][:, 1:])


def test_teacher_never_changes_and_the_student_starts_afresh() -> None:
    first = stage1()
    second = stage2(first).train()
    teachers = [f"teacher_{name}" for name in RECONSTRUCTION]
    assert set(teachers) <= second.frozen
    assert not any(second.get_submodule(name).training for name in teachers)
    before = {k: v.clone() for k, v in second.state_dict().items() if k.startswith("teacher_")}
    for key, value in before.items():
        name = key.removeprefix("teacher_")
        assert torch.equal(value, first.state_dict()[name])
        if key.endswith("weight") and "norm" not in key:
            assert not torch.equal(value, second.state_dict()[name])
    optimizer = torch.optim.AdamW((p for p in second.parameters() if p.requires_grad), lr=0.1)
    sum(second(small_batch()).values()).backward()
    assert all(p.grad is None for t in teachers for p in second.get_submodule(t).parameters())
    optimizer.step()
    assert all(torch.equal(second.state_dict()[key], value) for key, value in before.items())


def test_a_student_becomes_the_next_teacher() -> None:
    student = stage2(stage1())
    third = stage2(student)
    count = len(student.get_submodule("audio").state_dict())
    assert f"teacher_audio: {count} tensors are those of previous.audio" in third.notes
    key = "encoder.blocks.1.attn.qkv.weight"
    assert torch.equal(
        third.get_parameter(f"teacher_video.{key}"), student.get_parameter(f"video.{key}")
    )


def test_options_of_the_recipes_open_questions() -> None:
    batch = small_batch()
    normalised = stage2(stage1(), target_norm="layer")(batch, ["at"])["at"]
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(4, 16), atol=1e-5, rtol=0)
    every = stage2(stage1(), loss_tokens="all", alpha=0.0, beta=0.0)
    torch.manual_seed(0)
    out = every(batch, ["ah", "at", "audio_feature"])
    expected = torch.nn.functional.mse_loss(out["ah"], out["at"])
    torch.testing.assert_close(out["audio_feature"], expected)
    raw = stage1(normalize_patches="none")(batch, ["at"])["at"]
    assert torch.equal(raw[0, 0], batch["audio"][0, 0, :16, :16].flatten())


def test_stage_2_with_the_graph_of_stage_1_is_the_ablation_with_raw_targets() -> None:
    override = ["stages.stage2.graph=graphs/mavil_stage1.yaml", "args.alpha=0.05"]
    loaded = load_experiment(GRAPHS.parent / "mavil.yaml", override)
    second = loaded.instances[-1]
    assert second.stage == "stage2"
    assert set(second.spec.losses) == {"audio_raw", "video_raw", "inter", "intra"}
    assert not any(module.is_teacher for module in second.spec.modules.values())


def test_three_rounds_of_stage_2_each_have_a_teacher() -> None:
    loaded = load_experiment(GRAPHS.parent / "mavil.yaml", ["stages.stage2.repeat=3"])
    names = [instance.name for instance in loaded.instances]
    assert names == ["stage1", "stage2", "stage2.2", "stage2.3"]
    assert all(item.spec.modules["teacher_audio"].is_teacher for item in loaded.instances[1:])
