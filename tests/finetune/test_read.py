"""The fine-tuning file: every mistake has a place, every file here can be read."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import avssl.finetune
from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.errors import ConfigError, UserError
from avssl.finetune.config import Cosine, Steps
from avssl.finetune.read import read_data, read_file, refuse_classifier_file
from avssl.speech.job import prepare
from avssl.train.optimizer import peak_lr
from avssl.train.run import train

FILES = sorted((Path(__file__).parents[2] / "configs" / "finetune").glob("*.yaml"))
RECOGNISERS = [path for path in FILES if "\nstages:" in path.read_text()]
CONFIGS = [path for path in FILES if path not in RECOGNISERS]
BASE = DataConfig(source="clips", window=2.0, inputs={"audio": FbankConfig(frames=192, bins=64)})


def test_an_experiment_is_sent_to_its_tool() -> None:
    with pytest.raises(UserError, match=r"vsr\.yaml is an experiment.*tools/finetune\.py"):
        read_file(next(path for path in RECOGNISERS if path.stem == "vsr"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_a_classifier_is_sent_to_its_tool(path: Path) -> None:
    if path in RECOGNISERS:
        refuse_classifier_file(path)
        return
    for tool in (train, prepare):
        with pytest.raises(UserError, match=r"evaluate\.py MODEL --task finetune --config$"):
            tool(path, [])


def test_an_experiment_with_mistakes_is_no_file_of_a_classifier(tmp_path: Path) -> None:
    for text in ("probe: {}\nlabels: single\n", "name: x\nrun: y\n", "[", "- a\n"):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ConfigError):
            train(tmp_path / "a.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_files_here_read(path: Path) -> None:
    config, _ = read_file(path)
    assert config.train.epochs > 0


@pytest.mark.parametrize(
    ("name", "rate", "repeats", "views"),
    [
        ("mvd_kinetics400", 7.5e-4, 2, (5, 3)),
        ("mvd_something", 7.5e-4, 2, (2, 3)),
        ("dmae_imagenet", 2e-3, 1, (1, 1)),
        ("mimco_imagenet", 5e-3, 1, (1, 1)),
    ],
)
def test_recipes_of_pictures_fit_the_pretraining_of_the_papers(
    name: str, rate: float, repeats: int, views: tuple[int, int]
) -> None:
    config, document = read_file(next(path for path in CONFIGS if path.stem == name))
    trained = {
        "video": FramesConfig(frames=16, size=224, scales=[1.0, 0.875, 0.75, 0.66]),
        "image": FramesConfig(frames=1, size=224, seconds=0.04, area=[0.2, 1.0], flip=0.5),
    }
    data = read_data(document, DataConfig(inputs={config.encoder: trained[config.encoder]}))
    recipe = data.inputs[config.encoder]
    assert isinstance(recipe, FramesConfig) and recipe.randaugment is not None
    assert recipe.area == [0.08, 1.0]
    sampled = {"mvd_kinetics400": ("dense", 4), "mvd_something": ("segments", None)}
    assert (recipe.sampling, recipe.stride) == sampled.get(name, ("window", None))
    assert peak_lr(config.train.optimizer(), data.batch) == pytest.approx(rate)
    assert config.train.repeats == repeats
    assert (config.test.clips, config.test.crops) == views
    assert config.augment.mixup is not None and config.augment.mixup.alpha == 0.8
    assert config.augment.cutmix is not None and config.augment.cutmix.alpha == 1.0
    assert (config.augment.erase, config.train.label_smoothing) == (0.25, 0.1)


def test_the_laptop_file_takes_towers_of_clips_and_of_pictures() -> None:
    path = next(path for path in CONFIGS if path.stem == "laptop_video")
    (command,) = re.findall(r"with encoder=image '(.*)'", path.read_text())
    _, document = read_file(path)
    video = FramesConfig(frames=8, size=64, scales=[1.0, 0.875], flip=0.5)
    data = read_data(document, DataConfig(inputs={"video": video}))
    assert data.inputs["video"].shape == video.shape
    _, document = read_file(path, ["encoder=image", command])
    image = FramesConfig(frames=1, size=64, seconds=0.04, area=[0.2, 1.0])
    data = read_data(document, DataConfig(inputs={"image": image}))
    assert data.inputs["image"].shape == image.shape


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("augmnt: {}", r"tones\.yaml:7:1: unknown key 'augmnt'\. Did you mean 'augment'"),
        ("mask: {time: 1.0}", r"tones\.yaml:7:1: mask: time must be from 0 below 1, found 1"),
        ("augment: {fill: none}", r"tones\.yaml:7:17: .*one of mean, zero"),
        ("augment: {mixup: {alpha: 0}}", r"alpha must be above 0"),
        ("labels: several", r"tones\.yaml:7:9: .*one of single, multi"),
        ("seeds: []", "at least one"),
        ("seeds: [1, 1]", "none twice"),
    ],
)
def test_mistakes_have_places(file: Callable[..., Path], line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_file(file(line))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.layer_decay=0", "layer_decay must be above 0, at most 1"),
        ("train.layer_decay=1.5", "layer_decay"),
        ("train.drop_path=1", "drop_path must be from 0 below 1"),
        ("train.betas=[0.9]", "betas must be two numbers"),
        ("train.average_from=3", "average_from is 3, but there are 2 epochs"),
        ("train.schedule={type: poly}", "Known: cosine, steps"),
        ("train.schedule={type: steps, factor: 1}", "factor"),
        ("train.head_lr_scale=0", "head_lr_scale"),
        ("train.epochs=0", "epochs must be at least 1"),
        ("train.repeats=0", "repeats must be at least 1"),
        ("augment.erase=1.5", "erase must be from 0 to 1"),
        ("augment.cutmix={alpha: 0}", "alpha must be above 0"),
        ("test.crops=2", "crops is 1, the centre, or 3"),
        ("train.lr=nan", "lr"),
    ],
)
def test_overrides_are_checked(file: Callable[..., Path], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_file(file(), [override])


def test_schedules() -> None:
    assert Cosine() == Cosine(type="cosine", min_lr=0.0)
    assert Steps(type="steps") == Steps(type="steps", start=5, every=1, factor=0.5)


def test_data_is_the_models_with_changes(file: Callable[..., Path]) -> None:
    overrides = ["data.inputs.audio.frames=496", "data.window=5", "data.inputs.audio.shift=true"]
    _, document = read_file(file(), overrides)
    data = read_data(document, BASE)
    assert data.inputs["audio"] == FbankConfig(frames=496, bins=64, shift=True)
    assert (data.source, data.window, data.batch) == ("clips", 5.0, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.inputs.sound.frames=4", "the encoder reads no 'sound'"),
        ("data.source=other", "not by 'data.source'"),
        ("data.batsch=4", "unknown key 'batsch' in 'data'. Did you mean 'batch'"),
        ("data.inputs.audio.frames=x", "'data.inputs.audio.frames' must be a whole number"),
        ("data.batch=0", "batch must be above 0"),
    ],
)
def test_mistakes_in_data(file: Callable[..., Path], override: str, message: str) -> None:
    _, document = read_file(file(), [override])
    with pytest.raises(ConfigError, match=message):
        read_data(document, BASE)


def test_nothing_heavy_at_import() -> None:
    assert callable(avssl.finetune.run)
