"""The fine-tuning configurations that are shipped: whole, and as the recipe has them."""

import pytest

from avssl.blocks.text_decoder import TextDecoder
from avssl.graph.spec import GraphSpec
from avssl.train.experiment import load_experiment
from tests.speech.tones import CONFIGS

LAPTOP = ["vsr", "asr", "avsr", "vsr_frozen"]
# RAVEn's rows: encoder width and depth, rates of encoder and rest, weight decay, drop path,
# layer decay, epochs, GPUs, millions of parameters of the decoder. Frames on each GPU are known of
# pre-training alone, and taken from there.
PAPER = {
    "raven_vsr_30h": (512, 12, 1e-3, 5e-3, 0.1, 0.2, 0.5, 50, 16, 10.1),
    "raven_vsr_433h": (1024, 24, 2e-3, 4e-3, 0.04, 0.3, 0.75, 75, 32, 153.3),
    "raven_asr_30h": (512, 12, 1e-3, 5e-3, 0.1, 0.2, 0.5, 200, 16, 10.1),
    "raven_asr_433h": (512, 12, 1e-3, 1e-3, 0.04, 0.1, 1.0, 75, 32, 26.3),
}


def decoder_millions(spec: GraphSpec) -> float:
    import torch

    inner = spec.modules["head"].graph
    assert inner is not None
    with torch.device("meta"):
        decoder = TextDecoder(**inner.modules["decoder"].arguments)
    return round(sum(parameter.numel() for parameter in decoder.parameters()) / 1e6, 1)


@pytest.mark.parametrize("name", LAPTOP)
def test_laptop_configurations_take_the_pretrained_encoders_and_their_units(name: str) -> None:
    experiment = load_experiment(CONFIGS / "finetune" / f"{name}.yaml", shapes=False)
    config, spec = experiment.config, experiment.instances[-1].spec
    assert config.data.train_share == 0.1
    assert config.speech is not None and config.speech.pieces == spec.arguments["units"] - 2
    assert config.train.keep >= config.speech.average
    pretrained = load_experiment(CONFIGS / "raven.yaml", shapes=False).instances[-1].spec
    for tower in {"video", "audio"} & set(spec.modules):
        ours, theirs = spec.modules[tower].graph, pretrained.modules[tower].graph
        assert ours is not None and theirs is not None
        changed = {k for k, v in ours.arguments.items() if theirs.arguments[k] != v}
        assert changed <= {"drop_path", "dropout", "attention_dropout"}


def test_the_freezing_schedule_differs_from_plain_fine_tuning_in_its_stages_alone() -> None:
    plain, frozen = (
        load_experiment(CONFIGS / "finetune" / f"{name}.yaml", shapes=False)
        for name in ("vsr", "vsr_frozen")
    )
    for section in ("train", "data", "speech"):
        assert getattr(frozen.config, section) == getattr(plain.config, section)
    ours, theirs = frozen.instances[-1].spec.arguments, plain.instances[-1].spec.arguments
    starts = ("init", "head_init")
    assert ours == {**theirs, **{name: ours[name] for name in starts}}
    epochs = [sum(item.config.epochs or 0 for item in x.instances) for x in (plain, frozen)]
    assert epochs[0] == epochs[1]


@pytest.mark.parametrize("name", PAPER)
def test_paper_configurations_have_the_numbers_of_the_recipe(name: str) -> None:
    experiment = load_experiment(CONFIGS / "paper" / f"{name}.yaml", shapes=False)
    config, spec = experiment.config, experiment.instances[-1].spec
    width, depth, encoder, rest, decay, path, layers, epochs, gpus, millions = PAPER[name]
    (tower,) = [spec.modules[name] for name in ("video", "audio") if name in spec.modules]
    assert tower.graph is not None
    sizes = tower.graph.arguments
    assert (sizes["width"], sizes["depth"], sizes["drop_path"]) == (width, depth, path)
    assert config.train.lr == rest and config.train.lr * tower.options.lr_scale == encoder
    assert (config.train.weight_decay, tower.options.layer_decay) == (decay, layers)
    assert experiment.instances[-1].config.epochs == epochs
    assert config.data.lengths is not None and config.data.lengths.budget == 2400 * gpus
    assert config.speech is not None and config.speech.pieces == spec.arguments["units"] - 2
    assert (config.speech.average, config.speech.decode.beam) == (10, 40)
    assert decoder_millions(spec) == millions
