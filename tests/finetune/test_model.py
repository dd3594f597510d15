"""The classifier: what it computes, from which weights, and how its parts learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

import avssl
from avssl.data.config import FramesConfig
from avssl.encoders.load import Encoders
from avssl.errors import ConfigError, UserError
from avssl.finetune.build import build_classifier
from avssl.finetune.config import Finetune, Optimisation, PatchMasks
from avssl.finetune.model import Classifier, Head
from avssl.graph.graph import Graph, SubGraph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Problems
from avssl.train.optimizer import make_optimizer

CONFIG = Finetune(name="x", run="x")
CPU = torch.device("cpu")
TOWERS = Path(__file__).parents[2] / "configs" / "towers"


@pytest.fixture(scope="module")
def av(model: Path) -> Encoders:
    return avssl.load(model)


def build(av: Encoders, name: str, *, config: Finetune = CONFIG, **more: Any) -> Classifier:
    encoder = av[name]
    given: dict[str, Any] = {"inputs": encoder.inputs, "classes": 5, "seed": 3, **more}
    return build_classifier(encoder, av.roles, config=config, **given)


def batch(rows: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"audio": torch.randn(rows, 1, 64, 32), "video": torch.randn(rows, 3, 4, 32, 32)}


@pytest.mark.parametrize(("name", "width"), [("audio", 16), ("video", 16), ("audio_video", 32)])
def test_features_are_the_encoders(av: Encoders, name: str, width: int) -> None:
    classifier = build(av, name)
    inputs = batch()
    features = classifier.features(inputs)
    assert features.shape == (3, width)
    assert torch.allclose(features, av[name].encode(inputs), atol=1e-6)
    assert classifier(inputs).shape == (3, 5)


@pytest.mark.parametrize("name", ["audio", "video", "audio_video"])
def test_everything_learns(av: Encoders, name: str) -> None:
    classifier = build(av, name).train()
    inputs = batch()
    keep = classifier.masks(3, PatchMasks(time=0.5, frequency=0.5, video=0.5), CPU)
    classifier(inputs, keep).square().sum().backward()
    for key, parameter in classifier.named_parameters():
        assert parameter.grad is not None, key
    optimizer = make_optimizer(classifier.graph, Optimisation().optimizer())
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    assert trained == set(classifier.parameters())


def test_the_encoder_stays_as_it_is(av: Encoders) -> None:
    before = av.audio.fingerprint
    classifier = build(av, "audio")
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(1)
    fresh = Encoders(av.model, "cpu")
    assert fresh.audio.fingerprint == before
    assert torch.equal(av.audio.encode(batch()), fresh.audio.encode(batch()))


def test_hidden_patches_do_not_matter(av: Encoders) -> None:
    classifier = build(av, "audio_video").eval()
    torch.manual_seed(0)
    keep = classifier.masks(3, PatchMasks(time=0.5, frequency=0.5, video=0.5), CPU)
    assert keep["audio"].shape == (3, 2 * 1) and keep["video"].shape == (3, 4)
    inputs = batch()
    changed = {name: x.clone() for name, x in inputs.items()}
    for row in range(3):
        for t in range(4):
            for f in range(2):
                if t * 2 + f not in keep["audio"][row]:
                    changed["audio"][row, :, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16] += 1
        for index in range(8):
            t, h, w = index // 4, index // 2 % 2, index % 2
            if index not in keep["video"][row]:
                place = changed["video"][row, :, 2 * t : 2 * t + 2]
                place[:, :, 16 * h : 16 * h + 16, 16 * w : 16 * w + 16] += 1
    assert torch.allclose(classifier(inputs, keep), classifier(changed, keep), atol=1e-6)
    assert not torch.allclose(classifier(inputs), classifier(changed), atol=1e-3)


def test_masks_are_off_unless_asked_for(av: Encoders) -> None:
    classifier = build(av, "audio_video")
    assert classifier.masks(3, PatchMasks(), CPU) == {}
    assert list(classifier.masks(3, PatchMasks(time=0.5), CPU)) == ["audio"]
    assert list(classifier.masks(3, PatchMasks(video=0.5), CPU)) == ["video"]


def test_from_scratch_is_the_same_architecture_with_other_weights(av: Encoders) -> None:
    scratch = replace(CONFIG, from_scratch=True)
    a, b, c = (build(av, "audio", config=scratch, seed=seed) for seed in (1, 1, 2))
    trained = build(av, "audio", seed=1)
    shapes = [{k: v.shape for k, v in m.graph.state_dict().items()} for m in (a, trained)]
    assert shapes[0] == shapes[1]
    key = "audio.encoder.blocks.0.attn.qkv.weight"
    weights = [m.graph.state_dict()[key] for m in (a, b, c, trained)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    assert torch.equal(a.graph.state_dict()["head.linear.weight"],
                       trained.graph.state_dict()["head.linear.weight"])  # fmt: skip


def test_drop_path_rises_to_the_last_block(av: Encoders) -> None:
    config = replace(CONFIG, train=Optimisation(drop_path=0.3))
    classifier = build(av, "audio_video", config=config)
    for tower in ("audio", "video"):
        blocks = classifier.graph.get_submodule(f"{tower}.encoder.blocks")
        assert [block.drop_path for block in blocks] == pytest.approx([0.0, 0.3])  # type: ignore[union-attr]
    x = {
        name: value.repeat(40, 1, 1, 1, *[1] * (value.ndim - 4)) for name, value in batch(1).items()
    }
    with torch.no_grad():
        assert classifier.train().features(x).std(0).max() > 1e-3  # rows are dropped apart
        assert classifier.eval().features(x).std(0).max() < 1e-5


def test_layer_decay_goes_from_the_head_down_through_the_fusion(av: Encoders) -> None:
    config = replace(CONFIG, train=Optimisation(layer_decay=0.5, head_lr_scale=10.0))
    graph = build(av, "audio_video", config=config).graph
    scales = {
        group["name"].removesuffix(".no_decay"): group["lr_scale"]
        for group in make_optimizer(graph, config.train.optimizer()).param_groups
    }
    assert scales == {
        "head": 10.0,
        "fusion.layer1": 0.5,  # the fusion has one block, the towers two
        "audio.layer2": 0.25, "audio.layer1": 0.125, "audio.layer0": 0.0625,
        "video.layer2": 0.25, "video.layer1": 0.125, "video.layer0": 0.0625,
    }  # fmt: skip
    alone = make_optimizer(build(av, "audio", config=config).graph, config.train.optimizer())
    names = {group["name"]: group["lr_scale"] for group in alone.param_groups}
    assert names["audio.layer2"] == 0.5  # AudioMAE: decay ** (blocks + 1 - layer)


def test_longer_clips(av: Encoders) -> None:
    audio = replace(av.audio.inputs["audio"], frames=128)  # type: ignore[type-var]
    config = replace(CONFIG, args={"audio": {"frames": 128}})
    classifier = build(av, "audio", config=config, inputs={"audio": audio})
    x = torch.randn(2, 1, 128, 32)
    assert classifier({"audio": x}).shape == (2, 5)
    assert classifier.towers["audio"].grid == [8, 2]
    own, given = classifier.graph.state_dict(), av.audio.tower.state_dict()
    assert own["audio.positions.table"].shape[1] == 16
    assert torch.equal(own["audio.positions.table"][:, :8], given["positions.table"])
    assert torch.equal(own["audio.stem.proj.weight"], given["stem.proj.weight"])
    with pytest.raises(UserError, match=r"makes \[B, 1, 128, 32\], but 'audio' takes \[B, 1, 64"):
        build(av, "audio", inputs={"audio": audio})


FOREIGN: dict[str, dict[str, Any]] = {
    "ast": {"mel_frames": 64, "mel_bins": 48, "stride": [10, 10]},
    "audiomae": {"mel_frames": 64, "mel_bins": 32},
    "cavmae": {"mel_frames": 64, "mel_bins": 32, "image": 32},
    "clip": {"frames": 4, "image": 32},
    "image": {"image": 32},
    "mavil": {"mel_frames": 64, "mel_bins": 32, "image": 32, "fusion_depth": 1, "frames": 4},
}


def foreign(layout: str, folder: Path) -> Encoders:
    """A small model of another project's layout."""
    args = {"width": 32, "depth": 2, "heads": 2, **FOREIGN[layout]}
    path = TOWERS.parent / "graphs" / "encoders" / f"{layout}.yaml"
    graph = Graph.from_file(path, args=args)
    inputs: dict[str, Any] = {}
    if "audio" in graph.inputs:
        inputs["audio"] = {"type": "fbank", "bins": args["mel_bins"], "frames": args["mel_frames"]}
    if "video" in graph.inputs:
        frames = graph.inputs["video"].shape[2]
        inputs["video"] = {"type": "frames", "frames": frames, "size": args["image"]}
    about = {"name": layout, "graph": str(path), "args": args, "data": {"inputs": inputs}}
    (folder / "encoder.yaml").write_text(yaml.safe_dump(about))
    save_file(graph.state_dict(), folder / "model.safetensors")
    return avssl.load(folder)


@pytest.mark.parametrize("layout", FOREIGN)
def test_encoders_of_other_projects(layout: str, tmp_path: Path) -> None:
    av = foreign(layout, tmp_path)
    encoder = av[av.names[-1]]
    classifier = build(av, av.names[-1])
    torch.manual_seed(0)
    x = {name: torch.randn(4, *recipe.shape) for name, recipe in encoder.inputs.items()}
    assert torch.allclose(classifier.features(x), encoder.encode(x), atol=1e-5)
    keep = classifier.masks(4, PatchMasks(time=0.5, frequency=0.3, video=0.5), CPU)
    assert set(keep) == set(encoder.towers)
    classifier(x, keep).square().sum().backward()
    optimizer = make_optimizer(classifier.graph, Optimisation().optimizer())
    optimizer.step()
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    assert trained == {p for p in classifier.parameters() if p.grad is not None}
    left = [name for name, p in classifier.graph.named_parameters() if not p.requires_grad]
    assert all(".shared." in name or ".norm." in name for name in left)
    assert bool(left) == (layout == "cavmae")  # whose fusion goes past the towers' shared block


@pytest.mark.parametrize("layout", ["ast", "audiomae", "cavmae"])
def test_time_is_time_in_every_tower(layout: str, tmp_path: Path) -> None:
    classifier = build(foreign(layout, tmp_path), "audio")
    x = torch.randn(1, 1, 64, 48 if layout == "ast" else 32, requires_grad=True)
    keep = classifier.masks(1, PatchMasks(time=0.7), CPU)
    classifier.features({"audio": x}, keep).square().sum().backward()
    assert x.grad is not None
    seen = x.grad[0, 0] != 0  # [T, F]
    patches = 16 if layout == "ast" else 32  # the patches of AST leave a rest behind the last one
    assert seen.any(0)[:patches].all() and not seen.any(1).all()


def test_mistakes(av: Encoders) -> None:
    with pytest.raises(UserError, match="args changes 'video', but audio has audio"):
        build(av, "audio", config=replace(CONFIG, args={"video": {"frames": 2}}))
    with pytest.raises(ConfigError, match=r"args\.audio\.frame: .*Did you mean 'frames'"):
        build(av, "audio", config=replace(CONFIG, args={"audio": {"frame": 2}}))
    with pytest.raises(UserError, match=r"do not fit the tower that args\.audio makes"):
        build(av, "audio", config=replace(CONFIG, args={"audio": {"width": 32}}))
    wider = replace(CONFIG, args={"audio": {"width": 32}}, from_scratch=True)
    assert build(av, "audio", config=wider).features(batch()).shape == (3, 32)
    video = FramesConfig(frames=2, size=32)
    with pytest.raises(UserError, match=r"data\.inputs\.video makes"):
        build(av, "video", inputs={"video": video})


@pytest.mark.parametrize(
    ("towers", "fusion", "trained"),
    [
        (["audio"], None, 85_659_407),  # matches a logged AudioMAE run exactly
        (["audio", "video"], 3, 193_570_000),
        (["audio", "video"], 2, 186_480_000),
    ],
)
def test_paper_size(towers: list[str], fusion: int | None, trained: int) -> None:
    with torch.device("meta"):
        parts: list[nn.Module] = [Head(768 * len(towers), 527, std=0.02)]
    files = {name: f"vit_{name}.yaml" for name in towers} | (
        {"join": "fusion.yaml"} if fusion else {}
    )
    for name, file in files.items():
        problems = Problems()
        args = {"depth": fusion} if name == "join" else {}
        spec = read_graph(TOWERS / file, problems, args=args, inner=True)
        assert spec is not None
        connect(spec, problems)
        parts.append(SubGraph(spec, problems, name))
        problems.raise_if_any()
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert count == pytest.approx(trained, abs=10_000 if fusion else 0)
