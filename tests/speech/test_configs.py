"""The fine-tuning configurations that are shipped: whole, and as the recipe has them."""

import math

import pytest

from avssl.blocks.text_decoder import TextDecoder
from avssl.data.usable import open_units
from avssl.graph.graph import Graph
from avssl.graph.spec import GraphSpec
from avssl.speech.reader import text_recipe
from avssl.train.config import TrainConfig
from avssl.train.experiment import load_experiment
from avssl.train.optimizer import learning_rate, make_optimizer, set_learning_rate
from tests.speech.tones import CONFIGS

LAPTOP = ["vsr", "asr", "avsr", "vsr_frozen"]
# RAVEn's rows: encoder width and depth, rates of encoder and rest, weight decay, drop path,
# layer decay, epochs, GPUs and frames on each, millions of parameters of the decoder.
PAPER = {
    "raven_vsr_30h": (512, 12, 1e-3, 5e-3, 0.1, 0.2, 0.5, 50, 16, 2400, 10.1),
    "raven_vsr_433h": (1024, 24, 2e-3, 4e-3, 0.04, 0.3, 0.75, 75, 32, 2000, 153.3),
    "raven_asr_30h": (512, 12, 1e-3, 5e-3, 0.1, 0.2, 0.5, 200, 16, 2400, 10.1),
    "raven_asr_433h": (512, 12, 1e-3, 1e-3, 0.04, 0.1, 1.0, 75, 32, 2400, 26.3),
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
    assert config.speech is not None and config.speech.pieces is None
    assert len(open_units(text_recipe(config.data))) == spec.arguments["units"]
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
    starts = ("init", "scale_init", "head_init")
    assert ours == {**theirs, **{name: ours[name] for name in starts}}
    epochs = [sum(item.config.epochs or 0 for item in x.instances) for x in (plain, frozen)]
    assert epochs[0] == epochs[1]


@pytest.mark.parametrize("name", PAPER)
def test_paper_configurations_have_the_numbers_of_the_recipe(name: str) -> None:
    experiment = load_experiment(CONFIGS / "paper" / f"{name}.yaml", shapes=False)
    config, spec = experiment.config, experiment.instances[-1].spec
    width, depth, encoder, rest, decay, path, layers, epochs, gpus, frames, millions = PAPER[name]
    (tower,) = [spec.modules[name] for name in ("video", "audio") if name in spec.modules]
    assert tower.graph is not None
    sizes = tower.graph.arguments
    assert (sizes["width"], sizes["depth"], sizes["drop_path"]) == (width, depth, path)
    assert config.train.lr == rest and config.train.lr * tower.options.lr_scale == encoder
    assert (config.train.weight_decay, tower.options.layer_decay) == (decay, layers)
    assert experiment.instances[-1].config.epochs == epochs
    assert config.data.only == ({"set": "trainval"} if "30h" in name else None)
    assert config.data.lengths is not None and config.data.lengths.budget == frames * gpus
    assert config.speech is not None and config.speech.pieces == spec.arguments["units"] - 2
    decode = config.speech.decode
    assert config.speech.average == config.train.keep == 10
    assert (decode.beam, decode.ctc_weight) == (40, 0.1)
    assert (decode.length_bonus, decode.lm_weight) == (0.0, 0.0)
    assert decoder_millions(spec) == millions


@pytest.mark.parametrize("name", PAPER)
def test_paper_configurations_share_what_all_rows_share(name: str) -> None:
    experiment = load_experiment(CONFIGS / "paper" / f"{name}.yaml", shapes=False)
    train, spec = experiment.config.train, experiment.instances[-1].spec
    assert (train.betas, train.clip, train.warmup, train.min_lr) == ([0.9, 0.98], 5.0, 20, 1e-5)
    assert (train.decayed, train.precision) == ("all", "fp32")
    weights = {loss: entry.weight(0.5) for loss, entry in spec.losses.items()}
    assert weights == {"l_ctc": 0.1, "l_attention": 0.9}
    assert spec.modules["cross_entropy"].arguments["smoothing"] == 0.1
    mask = spec.modules["mask"].arguments  # 0.4 s of 1 s of video, 0.6 s of 2 s of sound
    assert (mask["window"], mask["stride"]) == ((10, 25) if "vsr" in name else (15, 50))


@pytest.mark.parametrize("name", LAPTOP)
def test_encoder_and_head_are_clipped_by_the_norm_of_both(name: str) -> None:
    for instance in load_experiment(CONFIGS / "finetune" / f"{name}.yaml", shapes=False).instances:
        trained = [
            m
            for m in instance.spec.modules.values()
            if m.graph or m.block in ("join_streams", "frame_norm")
        ]
        assert len(trained) > 1
        assert {module.options.clip_group for module in trained} == {"speech"}


def test_every_group_follows_the_schedule_at_its_own_rate() -> None:
    """Encoder and head, and every block of it: none is left at the rate it was made with."""
    path = CONFIGS / "graphs" / "speech_video.yaml"
    sizes = {"channels": 8, "features": 64, "width": 8, "depth": 2, "heads": 2, "hidden": 8}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2, "decoder_hidden": 8}
    rates = {"lr_scale": 0.2, "layer_decay": 0.5, "units": 9}
    graph = Graph.from_file(path, args={**sizes, **decoder, **rates})
    optimizer = make_optimizer(graph, TrainConfig(lr=1.0))
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert sorted(set(scales)) == pytest.approx([0.1, 0.2, 1.0])
    for step in range(20):
        set_learning_rate(optimizer, learning_rate(step, peak=1.0, minimum=0.1, warmup=4, steps=20))
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 4) / 15)) / 2
        expected = (step + 1) / 4 if step < 4 else cosine
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            assert group["lr"] == pytest.approx(expected * scale)
