"""The sizes of released files, on the meta device: parameters counted as the projects count them,
and encoder files that fit."""

from pathlib import Path

import pytest
import torch

from avssl.encoders.model import read_encoder_file
from avssl.errors import UserError
from avssl.weights.files import Checkpoint
from avssl.weights.foreign import CONFIGS, Foreign, fit_checkpoint
from avssl.weights.layouts import LAYOUTS
from tests.weights.shapes import Shapes, audiomae, cavmae, mavil, videomae


def on_meta(shapes: Shapes, **how: object) -> Foreign:
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return fit_checkpoint(Checkpoint(Path("released.pth"), tensors), **how)


def trained(foreign: Foreign, module: str) -> int:
    """Values of a module without its fixed table."""
    return sum(
        tensor.numel()
        for key, tensor in foreign.weights[module].items()
        if key != "positions.table"
    )


def test_mavil_base_as_released() -> None:
    foreign = on_meta(mavil(768, 12, 2, 16, 512, 784))
    assert foreign.layout == "mavil_avsuperb"
    assert foreign.report[1:4] == [
        "loaded 148/148 tensors into audio",
        "loaded 148/148 tensors into video",
        "loaded 24/24 tensors into fusion",
    ]
    assert foreign.args["heads"] == 12 and foreign.args["fusion_depth"] == 2
    counts = [trained(foreign, name) for name in ("audio", "video", "fusion")]
    assert [round(count / 1e6, 2) for count in counts] == [85.25, 86.24, 14.18]
    audio, video = foreign.data.inputs["audio"], foreign.data.inputs["video"]
    assert (audio.frames, audio.bins, video.frames, video.size) == (1024, 128, 8, 224)
    assert foreign.weights["audio"]["positions.table"].shape == (1, 512, 768)


def test_cavmae_base_as_released() -> None:
    shapes = cavmae(768, 11, 16, 512, 196, 527)
    assert round(sum(torch.Size(s).numel() for s in shapes.values()) / 1e6, 2) == 164.91
    foreign = on_meta(shapes)
    assert (foreign.args["mel_frames"], foreign.args["image"]) == (1024, 224)
    # (x - mean) / 4.4849, where avssl divides by 2 std
    audio = foreign.data.inputs["audio"]
    assert 2 * audio.std == pytest.approx(4.4849) and audio.mean == -5.081


@pytest.mark.parametrize(
    ("width", "depth", "patch", "heads", "millions"),
    [
        (384, 12, 16, 6, 21.88),
        (768, 12, 16, 12, 86.23),
        (1024, 24, 16, 16, 303.86),
        (1280, 32, 16, 16, 631.61),
    ],
)
def test_mvd_sizes(width: int, depth: int, patch: int, heads: int, millions: float) -> None:
    shapes = {**videomae(width, depth, patch), "pos_embed": (1, 1568, width)}
    foreign = on_meta(shapes)
    assert (foreign.layout, foreign.args["heads"]) == ("mvd", heads)
    assert foreign.args["frames"] == 16 and foreign.args["image"] == 224
    zeros = depth * width  # the key bias, which MVD does not have
    assert round((trained(foreign, "video") - zeros) / 1e6, 2) == millions


def test_audiomae_base_as_released() -> None:
    foreign = on_meta(audiomae(768, 12, 16, 512))
    # fine-tuned: a norm of the head and 527 classes, which makes the 85,659,407 of AudioMAE's log
    assert trained(foreign, "audio") + 527 * 768 + 527 == 85_659_407


def test_positions_must_fill_the_spectrogram() -> None:
    with pytest.raises(UserError, match="511 patches of 16 x 16 do not cover"):
        on_meta(audiomae(768, 1, 16, 511))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_encoder_file_of_a_layout_makes_what_its_graph_reads(name: str) -> None:
    file, spec = read_encoder_file(CONFIGS / "encoders" / f"{name}.yaml")
    assert file.name == name
    read = {key: item for key, item in spec.inputs.items() if not item.optional}
    assert set(read) == set(file.data.inputs)
    for key, item in read.items():
        assert item.shape[1:] == file.data.inputs[key].shape


def test_every_encoder_file_is_of_a_layout() -> None:
    assert {path.stem for path in (CONFIGS / "encoders").glob("*.yaml")} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_encoder_file_says_whose_weights_these_are(name: str) -> None:
    file, _ = read_encoder_file(CONFIGS / "encoders" / f"{name}.yaml")
    assert list(file.description) == ["source", "data", "licence"]
    assert all(isinstance(text, str) and text for text in file.description.values())
