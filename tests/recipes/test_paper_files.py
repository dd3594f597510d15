"""Paper files of MAE, VideoMAE, MoCo v3, MVD, MimCo and DMAE: the numbers of the papers, in the
files as they are read, and the parameters of what they make."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from avssl.graph.graph import Graph
from avssl.graph.source import Problems
from avssl.graph.spec import GraphSpec
from avssl.train.experiment import LoadedExperiment
from avssl.train.optimizer import peak_lr
from tests.recipes.released import loaded, write_teachers

Sizes = tuple[int, int, int]  # depth, width, heads
PICTURE = {"frames": 1, "size": 224, "flip": 0.5, "aspect": [3 / 4, 4 / 3], "scales": None}
CLIP = {"frames": 16, "size": 224, "flip": 0.0, "area": None, "scales": [1.0, 0.875, 0.75, 0.66]}
PLAIN = {"jitter": None, "grey": 0.0, "blur": 0.0, "solarise": 0.0}
COLOURS = {"jitter": [0.4, 0.4, 0.2, 0.1], "jitter_share": 0.8, "grey": 0.2}
MAE_CROP = {"image": {**PICTURE, **PLAIN, "area": [0.2, 1.0]}}
VIEW = {**PICTURE, **COLOURS, "area": [0.08, 1.0]}
PATCHES = {"ratio": 0.75, "patch": [1, 16, 16], "kept": "floor"}
TUBES = {"ratio": 0.9, "patch": [2, 16, 16], "cell": [0, 16, 16], "kept": "ceil"}
BASE, LARGE, HUGE = (12, 768, 12), (24, 1024, 16), (32, 1280, 16)


@dataclass(frozen=True)
class Paper:
    """What a paper says.

    Attributes:
        lr: at batch 256, and at the last step of the whole batch.
        length: batch, epochs and epochs of warm-up.
        decay: weight decay, and the second beta of AdamW.
        decayed: which parameters.
        inputs: how the inputs are made.
        mask: of the student.
        sizes: module -> depth, width and heads.
        clip: largest norm of gradients.
    """

    lr: tuple[float, float]
    length: tuple[int, int, int]
    decay: tuple[float, float]
    inputs: dict[str, dict[str, Any]]
    mask: dict[str, Any] | None
    sizes: dict[str, Sizes]
    decayed: str = "matrices"
    clip: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def mvd(student: Sizes, decoder: Sizes, teacher: Sizes, drop_path: float, *numbers: float) -> Paper:
    """`numbers`: batch, epochs and the rate of the last step."""
    batch, epochs, last = numbers
    sizes = {"video": student, "image_decoder": decoder, "video_decoder": decoder}
    sizes |= {"teacher_image": teacher, "teacher_video": teacher}
    arguments = {"drop_path": drop_path, "image_weight": 1.0, "video_weight": 1.0}
    arguments |= {"pixel_weight": 0.0, "target_norm": "none"}
    arguments |= {"image_features": teacher[1], "video_features": teacher[1]}
    clip = {"video": {**CLIP, **PLAIN}}
    length = (int(batch), int(epochs), 40)
    return Paper((1.5e-4, last), length, (0.05, 0.95), clip, TUBES, sizes, arguments=arguments)


PAPERS = {
    "mae_base": Paper(
        (1.5e-4, 0.0), (4096, 1600, 40), (0.05, 0.95), MAE_CROP, PATCHES,
        {"image": BASE, "decoder": (8, 512, 16)},
        arguments={"normalize_patches": "patch"},
    ),
    "videomae_base": Paper(
        (1.5e-4, 1e-5), (1024, 1600, 40), (0.05, 0.95), {"video": {**CLIP, **PLAIN}}, TUBES,
        {"video": BASE, "decoder": (4, 384, 6)},
        arguments={"normalize_patches": "channel"},
    ),
    "mocov3_small": Paper(
        (1.5e-4, 0.0), (4096, 300, 40), (0.1, 0.999),
        {"view1": {**VIEW, "blur": 1.0, "solarise": 0.0},
         "view2": {**VIEW, "blur": 0.1, "solarise": 0.2}},
        None, {"image": (12, 384, 12), "teacher_image": (12, 384, 12)}, decayed="all",
        arguments={"temperature": 0.2, "momentum": 0.99, "hidden": 4096, "embedding": 256,
                   "stem_trained": False},
    ),
    "mvd_small": mvd((12, 384, 6), (2, 384, 6), BASE, 0.1, 1024, 400, 1e-4 * 1024 / 256),
    "mvd_base": mvd(BASE, (2, 768, 12), BASE, 0.1, 1024, 400, 1e-4 * 1024 / 256),
    "mvd_large": mvd(LARGE, (4, 512, 8), LARGE, 0.1, 512, 400, 1e-4 * 512 / 256),
    "mvd_huge": mvd(HUGE, (8, 640, 8), HUGE, 0.2, 512, 800, 1e-5 * 512 / 256),
    "mimco_small": Paper(
        (1e-4 * 256 / 512, 0.0), (2048, 100, 10), (0.05, 0.999),
        {"image": {**PICTURE, **PLAIN, "area": [0.67, 1.0]}},
        {"ratio": 0.6, "patch": [1, 16, 16], "cell": [1, 32, 32]},
        {"image": (12, 384, 12), "teacher": (12, 384, 12)},
        clip=5.0,
        arguments={"pixel_weight": 0.0, "patch_weight": 1.0, "image_weight": 1.0,
                   "patch_temperature": 0.2, "image_temperature": 0.2, "drop_path": 0.0},
    ),
    "dmae_base": Paper(
        (1.5e-4, 0.0), (4096, 100, 20), (0.05, 0.95), MAE_CROP, PATCHES,
        {"image": BASE, "decoder": (8, 512, 16), "teacher": LARGE},
        arguments={"normalize_patches": "none", "tap": 9, "align_weight": 1.0, "align_error": "l1",
                   "feature_norm": "l2", "teacher_width": 1024},
    ),
}  # fmt: skip
# module -> millions of parameters; "all" is everything that is trained
COUNTS: dict[str, dict[str, float]] = {
    "mae_base": {"image": 85.65, "decoder head": 26.01, "all": 111.66},
    "videomae_base": {"video": 86.23},
    "mocov3_small": {"image": 21.59, "projector": 19.42, "predictor": 2.11},
    "mvd_small": {"video": 21.88, "image_decoder image_head": 3.99,
                  "video_decoder video_head": 3.99, "all": 29.87},
    "mvd_base": {"video": 86.23, "image_decoder image_head": 15.36,
                 "video_decoder video_head": 15.36, "all": 116.94},
    "mvd_large": {"video": 303.86, "image_decoder image_head": 13.66,
                  "video_decoder video_head": 13.66, "all": 331.18},
    "mvd_huge": {"video": 631.61, "image_decoder image_head": 41.03,
                 "video_decoder video_head": 41.03, "all": 713.66},
    "mimco_small": {"image": 21.59},
    "dmae_base": {"image": 85.65, "decoder head": 26.01, "projection": 0.79},
}  # fmt: skip
paper = pytest.mark.parametrize("name", PAPERS)


def read(name: str, folder: Path) -> LoadedExperiment:
    write_teachers(name, folder)
    return loaded(name, folder, shapes=False)


def sizes(spec: GraphSpec, module: str) -> Sizes:
    """Depth, width and heads of the blocks in a tower or a decoder."""
    graph = spec.modules[module].graph
    assert graph is not None
    part = next(graph.modules[part] for part in ("encoder", "decoder") if part in graph.modules)
    return part.arguments["depth"], part.arguments["width"], part.arguments["heads"]


@paper
def test_files_have_the_numbers_of_their_papers(name: str, tmp_path: Path) -> None:
    experiment, paper = read(name, tmp_path), PAPERS[name]
    config, train = experiment.config, experiment.config.train
    (instance,) = experiment.instances
    batch, epochs, warmup = paper.length
    assert (config.data.batch, instance.config.epochs, train.warmup) == (batch, epochs, warmup)
    rate, last = paper.lr
    assert train.lr_rule == "per_256" and train.lr == pytest.approx(rate)
    assert peak_lr(train, batch) == pytest.approx(rate * batch / 256)
    assert train.min_lr == pytest.approx(last)
    assert (train.weight_decay, train.betas) == (paper.decay[0], [0.9, paper.decay[1]])
    assert (train.decayed, train.eps, train.clip) == (paper.decayed, 1e-8, paper.clip)
    assert set(config.data.inputs) == set(paper.inputs)
    for key, wanted in paper.inputs.items():
        recipe = config.data.inputs[key]
        assert {item: getattr(recipe, item) for item in wanted} == wanted
        if recipe.frames == 16:  # four apart, of 30 in a second
            assert config.data.window == pytest.approx(16 * 4 / 30)
            assert recipe.seconds is None and recipe.sampling == "window"


@paper
def test_files_make_models_of_the_sizes_of_their_papers(name: str, tmp_path: Path) -> None:
    (instance,) = read(name, tmp_path).instances
    spec, paper = instance.spec, PAPERS[name]
    assert {module: sizes(spec, module) for module in paper.sizes} == paper.sizes
    assert {key: spec.arguments[key] for key in paper.arguments} == paper.arguments
    assert ("mask" in spec.modules) == (paper.mask is not None)
    if paper.mask is not None:
        mask = spec.modules["mask"].arguments
        assert {key: mask.get(key, "floor") for key in paper.mask} == paper.mask
    if name == "dmae_base":  # 18 of 24
        teacher = spec.modules["teacher"].graph
        assert teacher is not None and teacher.modules["encoder"].arguments["tap"] == 18


def unneeded(graph: Graph, module: str) -> int:
    """Biases of keys in the blocks over clips, which the authors' lack and which change nothing."""
    if not any(name in graph.spec.modules for name in ("video", "video_decoder")):
        return 0
    names = ("video", "image_decoder", "video_decoder") if module == "all" else (module,)
    found = [sizes(graph.spec, name) for name in names if graph.spec.modules[name].graph]
    return sum(depth * width for depth, width, _ in found)


@paper
def test_files_make_as_many_parameters_as_their_papers_count(name: str, tmp_path: Path) -> None:
    (instance,) = read(name, tmp_path).instances
    problems = Problems()
    graph = Graph(instance.spec, problems)  # on the meta device
    problems.raise_if_any()
    for names, millions in COUNTS[name].items():
        if names == "all":
            found = sum(p.numel() for p in graph.parameters() if p.requires_grad)
        else:
            modules: list[nn.Module] = [graph.get_submodule(module) for module in names.split()]
            found = sum(p.numel() for module in modules for p in module.parameters())
        found -= unneeded(graph, names.split()[0])
        rounded = 0.011 if names == "all" else 0.006  # the whole is a sum of rounded parts
        assert found / 1e6 == pytest.approx(millions, abs=rounded), names
