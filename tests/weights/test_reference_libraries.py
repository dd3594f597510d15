"""Checkpoints of timm and transformers give here the features that these libraries give.

Letters: B batch, T frames, F mel bins, H W height width.
"""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    ASTModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
    ViTModel,
)

from avssl.errors import UserError
from avssl.weights.foreign import Foreign, read_foreign
from tests.weights.plain import build, layers, picture_positions, randomise, save, worst

CLOSE = 1e-4
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
HF = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "image_size": 32,
    "patch_size": 8,
}
DECODER = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}


@torch.no_grad()
def timm_layers(model: nn.Module, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: found.append(given[0]))
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, out: found.append(out))
    out = model.forward_features(x)
    return [*found, out]


def pictures() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def check_timm(model: nn.Module, path: Path, **how: object) -> None:
    foreign = read_foreign(path, **{"sizes": {"heads": 3}, **how})
    found, out = layers(build(foreign).image, x=pictures().unsqueeze(2))
    assert worst([*found, out["tokens"]], timm_layers(model, pictures())) < CLOSE


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 5},
        {"num_classes": 0, "class_token": False, "global_pool": "avg", "fc_norm": False},
        {"num_classes": 0, "reg_tokens": 2, "no_embed_class": True},
        {"num_classes": 5, "global_pool": "avg"},  # fine-tuned as MAE: a norm behind the mean
        {"num_classes": 0, "mlp_ratio": 2.6},
    ],
)
def test_timm_vits(changes: dict[str, object], tmp_path: Path) -> None:
    model = randomise(VisionTransformer(**{**SMALL, **changes}))
    check_timm(model, save(tmp_path, model.state_dict()))


def test_timm_distilled_vit(tmp_path: Path) -> None:
    model = randomise(VisionTransformerDistilled(**SMALL, num_classes=5))
    path = save(tmp_path, {"model": model.state_dict(), "epoch": 3})
    check_timm(model, path)
    assert (
        "left out, as the layout says: head_dist.* 2, head.* 2"
        in read_foreign(path, sizes={"heads": 3}).report
    )


def test_timm_vit_with_layer_scale_is_refused_by_name(tmp_path: Path) -> None:
    model = randomise(VisionTransformer(**SMALL, init_values=1e-5))
    with pytest.raises(UserError, match=r"6 tensors are unexpected: blocks\.0\.ls1\.gamma"):
        read_foreign(save(tmp_path, model.state_dict()), sizes={"heads": 3})


def test_mae(tmp_path: Path) -> None:
    model = randomise(VisionTransformer(**SMALL, num_classes=0))
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}
    path = save(tmp_path, {"model": {**model.state_dict(), **decoder}, "args": Namespace(lr=1)})
    assert read_foreign(path, sizes={"heads": 3}).layout == "mae"
    check_timm(model, path)


def test_mae_without_its_decoder_is_known_by_its_positions(tmp_path: Path) -> None:
    model = randomise(VisionTransformer(**SMALL, num_classes=0))
    model.pos_embed.data[:, :1] = 0
    model.pos_embed.data[:, 1:] = picture_positions(4, 48)[0]
    path = save(tmp_path, {"model": model.state_dict()})
    assert read_foreign(path, sizes={"heads": 3}).layout == "mae"
    check_timm(model, path)


def test_mocov3(tmp_path: Path) -> None:
    model = randomise(VisionTransformer(**{**SMALL, "num_heads": 12, "embed_dim": 384}))
    state = {f"module.base_encoder.{name}": item for name, item in model.state_dict().items()}
    state |= {name.replace("base", "momentum"): item for name, item in state.items()}
    state["module.predictor.0.weight"] = torch.zeros(3, 3)
    path = save(tmp_path, {"state_dict": state, "arch": "vit_small", "epoch": 300}, "v.pth.tar")
    foreign = read_foreign(path)
    assert (foreign.layout, foreign.args["heads"]) == ("mocov3", 12)  # not DeiT's 6 of this width
    check_timm(model, path, sizes=None)


def test_mocov3_without_its_prefix_may_be_timms(tmp_path: Path) -> None:
    model = randomise(VisionTransformer(**SMALL, num_classes=0))
    model.pos_embed.data[:, :1] = 0  # fixed positions, and not MAE's
    with pytest.raises(UserError, match=r"may be timm_vit or mocov3.*layout='timm_vit'"):
        read_foreign(save(tmp_path, model.state_dict()), sizes={"heads": 3})


def check_folder(
    model: nn.Module, inner: nn.Module, tmp_path: Path, x: Tensor, **more: object
) -> Foreign:
    """The folder that transformers writes, and its tensors with their names in memory."""
    model.save_pretrained(tmp_path / "folder")
    with torch.no_grad():
        theirs = inner(x.clone(), output_hidden_states=True, **more)
    hidden = [*theirs.hidden_states, theirs.last_hidden_state]
    foreign = read_foreign(tmp_path / "folder")
    module = next(iter(foreign.weights))
    ours = {"image": x.unsqueeze(2), "video": x.transpose(1, 2), "audio": x.unsqueeze(1)}[module]
    graph = build(foreign)
    found, out = layers(graph.get_submodule(module), x=ours)
    assert worst([*found, out["tokens"]], hidden) < CLOSE
    # file names of this version: without config.json, heads and epsilon are given
    sizes = {"heads": 3, "norm_eps": foreign.args["norm_eps"], **foreign.args}
    again = read_foreign(save(tmp_path, model.state_dict()), layout=foreign.layout, sizes=sizes)
    first, second = foreign.weights[module], again.weights[module]
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    return foreign


@pytest.mark.parametrize("kind", [ViTModel, ViTForImageClassification])
def test_hf_vit(kind: type, tmp_path: Path) -> None:
    model = randomise(kind(ViTConfig(**HF)))
    foreign = check_folder(model, getattr(model, "vit", model), tmp_path, pictures())
    assert foreign.layout == "hf_vit"
    assert foreign.data.inputs["video"].mean == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("kind", [ViTMAEModel, ViTMAEForPreTraining])
def test_hf_vitmae(kind: type, tmp_path: Path) -> None:
    model = randomise(kind(ViTMAEConfig(**HF, **DECODER, mask_ratio=0.0)))
    order = torch.arange(16.0).expand(2, -1)  # no patch is hidden, and none is moved
    inner = getattr(model, "vit", model)
    foreign = check_folder(model, inner, tmp_path, pictures(), noise=order)
    assert foreign.layout == "hf_vitmae"


@pytest.mark.parametrize("kind", [ASTModel, ASTForAudioClassification])
@pytest.mark.parametrize("stride", [(10, 10), (6, 5)])
def test_hf_ast(kind: type, stride: tuple[int, int], tmp_path: Path) -> None:
    config = {name: item for name, item in HF.items() if name != "image_size"}
    sizes = {"max_length": 71, "num_mel_bins": 32, "patch_size": 12}
    strides = {"frequency_stride": stride[0], "time_stride": stride[1]}
    model = randomise(kind(ASTConfig(**{**config, **sizes, **strides})))
    sound = torch.randn(2, 71, 32, generator=torch.Generator().manual_seed(1))  # [B, T, F]
    inner = getattr(model, "audio_spectrogram_transformer", model)
    foreign = check_folder(model, inner, tmp_path, sound)
    assert foreign.layout == "hf_ast"
    assert foreign.data.inputs["audio"].frames == 71


@pytest.mark.parametrize(
    "kind", [VideoMAEModel, VideoMAEForVideoClassification, VideoMAEForPreTraining]
)
@pytest.mark.parametrize("pooled", [True, False])
def test_hf_videomae(kind: type, pooled: bool, tmp_path: Path) -> None:
    config = VideoMAEConfig(**HF, **DECODER, num_frames=6, use_mean_pooling=pooled)
    model = randomise(kind(config))
    clip = torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    more = {"bool_masked_pos": torch.zeros(2, 48, dtype=torch.bool)}  # nothing is hidden
    inner = getattr(model, "videomae", model)
    foreign = check_folder(model, inner, tmp_path, clip, **more)
    assert (foreign.layout, foreign.data.inputs["video"].frames) == ("hf_videomae", 6)


def test_preparation_comes_from_the_folder(tmp_path: Path) -> None:
    model = randomise(ViTModel(ViTConfig(**HF)))
    model.save_pretrained(tmp_path)
    written = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    video = read_foreign(tmp_path).data.inputs["video"]
    assert (video.mean, video.std, video.size) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 32)


def test_another_activation_is_refused(tmp_path: Path) -> None:
    ViTModel(ViTConfig(**HF, hidden_act="gelu_new")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="activation 'gelu_new'"):
        read_foreign(tmp_path)
