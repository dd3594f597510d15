"""What holds for every layout: it is told by itself, needs every tensor, and each in its shape."""

import random
import re
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import ASTConfig, ASTModel, VideoMAEConfig, VideoMAEModel, ViTConfig, ViTModel

from avssl.errors import UserError
from avssl.weights.conversion import strip
from avssl.weights.files import Checkpoint
from avssl.weights.foreign import Foreign, fit_checkpoint
from avssl.weights.layouts import LAYOUTS
from tests.weights.plain import build, random_state
from tests.weights.raven import raven
from tests.weights.shapes import audiomae, cavmae, mavil, videomae

SIZES = {"heads": 3}
SOUND = {**SIZES, "mel_bins": 32}
CLIP = {**SIZES, "image": 32, "frames": 4}
HF = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
}
RAVEN = {"channels": 8, "width": 24, "depth": 2, "heads": 2, "hidden": 40}
HF_SOUND = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96}


def state(module: nn.Module) -> dict[str, Tensor]:
    return random_state({name: tuple(item.shape) for name, item in module.state_dict().items()})


def timm() -> dict[str, Tensor]:
    return state(VisionTransformer(img_size=32, embed_dim=48, depth=2, num_heads=3, num_classes=0))


# layout: tensors that it needs, sizes
SAMPLES = {
    "mavil_avsuperb": (lambda: random_state(mavil(48, 2, 2, 16, 8, 8)), {**SOUND, "image": 32}),
    "cavmae": (lambda: random_state(cavmae(48, 2, 16, 8, 4)), SOUND),
    "audiomae": (lambda: random_state(audiomae(48, 2, 16, 8)), SOUND),
    "mae": (lambda: {**timm(), "mask_token": torch.zeros(1, 1, 8)}, SIZES),
    "mocov3": (lambda: {f"base_encoder.{k}": v for k, v in timm().items()}, SIZES),
    "timm_vit": (timm, SIZES),
    "videomae": (
        lambda: {f"encoder.{k}": v for k, v in random_state(videomae(48, 2, 16)).items()},
        CLIP,
    ),
    "mvd": (lambda: random_state({**videomae(48, 2, 16), "pos_embed": (1, 8, 48)}), CLIP),
    "hf_vit": (lambda: state(ViTModel(ViTConfig(**HF))), SIZES),
    "hf_vitmae": (
        lambda: {
            **{f"vit.{k}": v for k, v in state(ViTModel(ViTConfig(**HF))).items()},
            "decoder.decoder_embed.bias": torch.zeros(3),
        },
        SIZES,
    ),
    "hf_ast": (
        lambda: state(ASTModel(ASTConfig(**HF_SOUND, max_length=64, num_mel_bins=32))),
        {**SOUND, "mel_frames": 64},
    ),
    "hf_videomae": (lambda: state(VideoMAEModel(VideoMAEConfig(**HF, num_frames=4))), CLIP),
    "raven_video": (lambda: raven("video", **RAVEN), {"image": 16}),
    "raven_audio": (lambda: raven("audio", **RAVEN), {}),
}
OPTIONAL = ("mask_token", "decoder", "pooler", "norm_v", "num_batches")  # left out by name


def sample(name: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    make, sizes = SAMPLES[name]
    return make(), sizes


def fit(tensors: dict[str, Tensor], sizes: dict[str, int], layout: str | None = None) -> Foreign:
    return fit_checkpoint(Checkpoint(Path("x.pth"), tensors), layout=layout, sizes=sizes)


def test_every_layout_has_a_sample() -> None:
    assert set(SAMPLES) == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_is_told_from_the_others_and_runs(name: str) -> None:
    tensors, sizes = sample(name)
    foreign = fit(tensors, sizes)
    assert foreign.layout == name
    graph = build(foreign)
    batch = {
        key: torch.randn(2, *(size if isinstance(size, int) else 5 for size in item.shape[1:]))
        for key, item in graph.inputs.items()
        if not item.optional
    }
    with torch.no_grad():
        out = graph(batch, [source.key for source in foreign.spec.outputs.values()])
    assert all(value.isfinite().all() for value in out.values())


def needed(name: str, tensors: dict[str, Tensor]) -> list[str]:
    """Names that the encoder is made of, of the last block of each stack and outside of blocks."""
    used = [key for key in tensors if not any(part in key for part in OPTIONAL)]
    used = [key for key in used if not re.search(r"(blocks|blocks_[av]|layers?)\.0\.", key)]
    if name == "mavil_avsuperb":
        used = [key for key in used if not key.startswith("norm.")]
    if name == "cavmae":  # blocks of one modality hold norms of the other passes
        used = [key for key in used if not re.match(r"blocks_[av].*norm\d_", key)]
    assert any(re.search(r"\.1\.", key) for key in used)
    return used


def without(tensors: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {key: item for key, item in tensors.items() if key not in names}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tensor_is_needed(name: str) -> None:
    """Every second tensor is taken away, then the others: so that each block keeps some."""
    tensors, sizes = sample(name)
    tensors = strip(tensors, LAYOUTS[name].prefixes)
    wanted = needed(name, tensors)
    optional = {"pos_embed"} if name == "mvd" else set()  # fine-tuned files lack it
    for part in (wanted[::2], wanted[1::2]):
        gone, alone = set(part) - optional, set[str]()
        while True:
            try:
                checkpoint = Checkpoint(Path("x.pth"), without(tensors, gone))
                foreign = fit_checkpoint(checkpoint, layout=name, sizes=sizes, allow=["*"])
                break
            except UserError as error:  # one that tells sizes: the rest is looked at without it
                told = re.search(r"has no '(.*?)'", str(error))
                key = told[1] if told else "cls_token"
                gone.remove(key)
                alone.add(key)
        start = "missing, but allowed (initial values): "
        (line,) = [line for line in foreign.report if line.startswith(start)]
        alone |= gone - set(line.removeprefix(start).split(", "))
        assert len(alone) < len(part) / 2
        for key in alone:
            with pytest.raises(UserError, match=r"missing|has no|no square"):
                fit(without(tensors, {key}), sizes, layout=name)
        with pytest.raises(UserError, match="missing"):
            fit(without(tensors, gone), sizes, layout=name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_shape_counts(name: str) -> None:
    tensors, sizes = sample(name)
    for key in random.Random(0).sample(needed(name, tensors), 4):
        whole = tensors[key]
        for wrong in (whole[..., :1], whole.unsqueeze(0)):
            with pytest.raises(UserError):
                fit({**tensors, key: wrong}, sizes, layout=name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_values_that_are_not_finite_are_refused(name: str) -> None:
    tensors, sizes = sample(name)
    key = next(key for key in tensors if re.search(r"(fc1|\.dense|w_1)\.bias$", key))
    tensors[key] = tensors[key].clone()
    tensors[key][1] = float("nan")
    weights = fit(tensors, sizes, layout=name).weights
    with pytest.raises(UserError, match="values are not finite in"):
        dict(weights)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_module_holds_memory_of_its_own(name: str) -> None:
    """Nothing of the file or of other modules lives in it, and a look-up leaves nothing behind."""
    tensors, sizes = sample(name)
    theirs = {item.untyped_storage().data_ptr() for item in tensors.values()}
    weights = fit(tensors, sizes).weights
    for module in weights:
        ours = [item.untyped_storage() for item in weights[module].values()]
        assert not theirs & {storage.data_ptr() for storage in ours if storage.nbytes()}
        values = sum(item.nbytes for item in weights[module].values())
        assert sum(storage.nbytes() for storage in ours) == values
        assert weights[module] is not weights[module]


def test_odd_tensors_are_one_sentence() -> None:
    """Names that layouts look for, in shapes that none has."""
    random.seed(0)
    names = sorted({key for name in LAYOUTS for key in sample(name)[0]})
    for _ in range(150):
        chosen = random.sample(names, random.randint(1, 60))
        tensors = {
            key: torch.zeros([random.randint(0, 3) for _ in range(random.randint(0, 5))])
            for key in chosen
        }
        for layout in (None, random.choice(list(LAYOUTS))):
            with pytest.raises(UserError):
                fit(tensors, {}, layout=layout)
