"""preprocessor_config.json beside a Hugging Face model: honoured, noted, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ASTConfig, ASTModel, ViTConfig, ViTImageProcessor, ViTModel

import avssl
from avssl.errors import UserError
from avssl.weights.foreign import Foreign, read_foreign

SIZES = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}
SIZES |= {"intermediate_size": 96}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    ViTModel(ViTConfig(**SIZES, image_size=32)).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ast")
    ASTModel(ASTConfig(**SIZES, max_length=64, num_mel_bins=32)).save_pretrained(folder)
    return folder


def read(folder: Path, **known: Any) -> Foreign:
    (folder / "preprocessor_config.json").write_text(json.dumps(known))
    return read_foreign(folder)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120.0, 110, 100], "image_std": [60, 50, 40.0]},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1, 1], "image_std": [0.5, 0.6, 0.7]},
    ],
)
def test_pictures_are_scaled_as_transformers_scales_them(how: dict[str, Any], vit: Path) -> None:
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, **how)
    processor.save_pretrained(vit)
    picture = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    x = processor(picture[0].numpy(), return_tensors="pt")["pixel_values"]  # [1, 3, H, W]
    with torch.no_grad():
        theirs: Tensor = ViTModel.from_pretrained(vit)(x).last_hidden_state[:, 1:].mean(1)
    ours = avssl.load(vit, module="image")(picture, fps=1)
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "noted"),
    [
        ({"size": 32}, "squashes pictures"),
        ({"size": {"height": 32, "width": 32}}, "squashes pictures"),
        ({"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": 32}, None),
        ({"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": 32}, "resizes to 36"),
    ],
)
def test_another_way_to_the_same_size_is_noted(
    size: dict[str, Any], noted: str | None, vit: Path
) -> None:
    foreign = read(vit, **size)
    assert foreign.data.inputs["video"].size == 32
    lines = [line for line in foreign.report if line.startswith("preparation differs")]
    assert [noted in line for line in lines] == ([True] if noted else [])


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"size": {"height": 64, "width": 64}}, "makes pictures of 64 pixels, but its model reads"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean is ['a', 'b', 'c']"),
        ({"image_std": [0.5, 0.5]}, "mean and std need three numbers each"),
        ({"image_std": [0.5, 0.5, 0]}, "std above 0"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"do_rescale": False}, "does not say image_mean and image_std"),
    ],
)
def test_what_cannot_be_followed_is_refused(known: dict[str, Any], said: str, vit: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(vit, **known)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_sound_without_normalisation(ast: Path) -> None:
    audio = read(ast, do_normalize=False, mean=-4.0, std=4.0).data.inputs["audio"]
    assert (audio.mean, 2 * audio.std) == (0.0, 1.0)
    audio = read(ast, mean=-4.0, std=3.0, sampling_rate=8000).data.inputs["audio"]
    assert (audio.mean, audio.std, audio.sample_rate) == (-4.0, 3.0, 8000)


@pytest.mark.parametrize(
    "known", [{"num_mel_bins": 128}, {"max_length": 1024}, {"mean": "low"}, {"std": 0}]
)
def test_sound_that_cannot_be_prepared_is_refused(known: dict[str, Any], ast: Path) -> None:
    with pytest.raises(UserError):
        read(ast, **known)
