"""Layouts without a reference library: MAViL, AudioMAE, CAV-MAE, VideoMAE and MVD, as their recipes
describe them, in plain torch.

Letters: B batch, N tokens, D width, T frames, F mel bins, H W height width.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEModel

from avssl.blocks.positions import sincos_table_3d
from avssl.encoders.model import read_encoder_file
from avssl.errors import UserError
from avssl.weights.files import Checkpoint
from avssl.weights.foreign import CONFIGS, Foreign, fit_checkpoint, read_foreign
from avssl.weights.layouts import LAYOUTS
from tests.weights.plain import (
    BLOCK,
    block_shapes,
    build,
    layers,
    norm,
    random_state,
    randomise,
    run_block,
    save,
    worst,
)

CLOSE = 1e-4
HEADS = 3
SOUND = torch.randn(2, 1, 64, 32, generator=torch.Generator().manual_seed(1))  # [B, 1, T, F]
CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(2))  # [B, 3, T, H, W]
Shapes = dict[str, tuple[int, ...]]


def stem(name: str, width: int, kernel: tuple[int, ...]) -> Shapes:
    return {f"{name}.proj.weight": (width, *kernel), f"{name}.proj.bias": (width,)}


def norm_shapes(width: int, *names: str) -> Shapes:
    return {f"{name}.{kind}": (width,) for name in names for kind in ("weight", "bias")}


def stack(name: str, width: int, depth: int, parts: tuple[str, ...] = BLOCK) -> Shapes:
    shapes: Shapes = {}
    for number in range(depth):
        shapes |= block_shapes(f"{name}.{number}", width, parts)
    return shapes


def mavil(width: int, depth: int, fused: int, patch: int, audio: int, video: int) -> Shapes:
    """Keys and shapes of the published encoders; `audio` and `video` are numbers of patches."""
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, audio + 1, width),
        **stem("patch_embed", width, (1, patch, patch)),
        **stack("blocks", width, depth),
        "cls_token_v": (1, 1, width),
        "pos_embed_v": (1, video + 1, width),
        **stem("patch_embed_v", width, (3, 2, patch, patch)),
        **stack("blocks_v", width, depth),
        **stack("blocks_av", width, fused),
        **norm_shapes(width, "norm", "norm_v"),
        "mask_token": (1, 1, 512),
        "decoder_embed.weight": (512, width),
    }


def audiomae(width: int, depth: int, patch: int, patches: int) -> Shapes:
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, patches + 1, width),
        **stem("patch_embed", width, (1, patch, patch)),
        **stack("blocks", width, depth),
        **norm_shapes(width, "norm"),
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, patches + 1, 512),
    }


def cavmae(
    width: int, depth: int, patch: int, audio: int, video: int, classes: int | None = None
) -> Shapes:
    """The pre-trained model without its decoder, or the fine-tuned one, whole."""
    norms = tuple(f"norm{number}{end}" for number in (1, 2) for end in ("_a", "_v"))
    shapes = {
        **stem("patch_embed_a", width, (1, patch, patch)),
        **stem("patch_embed_v", width, (3, patch, patch)),
        "pos_embed_a": (1, audio, width),
        "pos_embed_v": (1, video, width),
        "modality_a": (1, 1, width),
        "modality_v": (1, 1, width),
        **stack("blocks_a", width, depth, BLOCK + norms),
        **stack("blocks_v", width, depth, BLOCK + norms),
        **stack("blocks_u", width, 1, BLOCK + norms),
        **norm_shapes(width, "norm", "norm_a", "norm_v"),
    }
    if classes is not None:
        shapes |= norm_shapes(width, "mlp_head.0")
        shapes |= {"mlp_head.1.weight": (classes, width), "mlp_head.1.bias": (classes,)}
    return shapes


def videomae(width: int, depth: int, patch: int) -> Shapes:
    shapes = {**stem("patch_embed", width, (3, 2, patch, patch)), **norm_shapes(width, "norm")}
    for name, shape in stack("blocks", width, depth).items():
        if name.endswith("qkv.bias"):
            shapes |= {name.replace("qkv.bias", bias): (width,) for bias in ("q_bias", "v_bias")}
        else:
            shapes[name] = shape
    return shapes


def convolved(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Patches [B, N, D] by the stem's own convolution."""
    weight, bias = state[f"{name}.proj.weight"], state[f"{name}.proj.bias"]
    convolve = F.conv2d if weight.dim() == 4 else F.conv3d
    return convolve(x, weight, bias, stride=weight.shape[2:]).flatten(2).transpose(1, 2)


def mae_tower(state: dict[str, Tensor], end: str, x: Tensor, depth: int) -> list[Tensor]:
    """CLS and patches behind each block: positions are added to the patches, then the CLS token
    with its own row goes in front."""
    table = state[f"pos_embed{end}"]
    patches = convolved(state, f"patch_embed{end}", x) + table[:, 1:]
    cls = (state[f"cls_token{end}"] + table[:, :1]).expand(len(x), -1, -1)
    found = [torch.cat([cls, patches], 1)]
    for number in range(depth):
        name = f"blocks{end}.{number}"
        found.append(run_block(state, name, found[-1], heads=HEADS, eps=1e-6))
    return found


SMALL = {"heads": HEADS, "mel_bins": 32}


@pytest.mark.parametrize("fused", [2, 3])
def test_mavil(fused: int, tmp_path: Path) -> None:
    state = random_state(mavil(48, 3, fused, 16, 8, 8))
    sizes = {**SMALL, "image": 32}
    foreign = read_foreign(save(tmp_path, {"model": state}), sizes=sizes)
    assert foreign.layout == "mavil_avsuperb"
    graph = build(foreign)
    audio = mae_tower(state, "", SOUND, 3)
    video = mae_tower(state, "_v", CLIP, 3)
    ours_a, out_a = layers(graph.audio, x=SOUND)
    ours_v, out_v = layers(graph.video, x=CLIP)
    assert worst(ours_a, audio) < CLOSE and worst(ours_v, video) < CLOSE
    joint = [torch.cat([audio[-1], video[-1]], 1)]
    for number in range(fused):
        joint.append(run_block(state, f"blocks_av.{number}", joint[-1], heads=HEADS, eps=1e-6))
    ours, out = layers(graph.fusion, audio=out_a["tokens"], video=out_v["tokens"])
    assert worst([*ours, torch.cat([out["audio"], out["video"]], 1)], [*joint, joint[-1]]) < CLOSE


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_audiomae(fine_tuned: bool, tmp_path: Path) -> None:
    state = random_state(audiomae(48, 3, 16, 8))
    kept = dict(state)
    if fine_tuned:  # the norm moves behind the mean
        kept |= {f"fc_norm.{kind}": kept.pop(f"norm.{kind}") for kind in ("weight", "bias")}
        kept |= random_state({"head.weight": (527, 48), "head.bias": (527,)})
    foreign = read_foreign(save(tmp_path, {"model": kept}), sizes=SMALL)
    assert foreign.layout == "audiomae"
    theirs = mae_tower(state, "", SOUND, 3)
    last = theirs[-1] if fine_tuned else norm(state, "norm", theirs[-1], 1e-6)
    found, out = layers(build(foreign).audio, x=SOUND)
    assert worst([*found, out["tokens"]], [*theirs, last]) < CLOSE


@pytest.mark.parametrize("classes", [None, 5])
def test_cavmae(classes: int | None, tmp_path: Path) -> None:
    state = random_state(cavmae(48, 2, 16, 8, 4, classes))
    path = save(tmp_path, {f"module.{name}": item for name, item in state.items()})
    foreign = read_foreign(path, sizes=SMALL)
    assert foreign.layout == "cavmae"
    assert "left out, as the layout says" in foreign.report[-1]
    graph, picture = build(foreign), CLIP[:, :, 0]
    own: dict[str, Tensor] = {}
    for module, end, x in (("audio", "_a", SOUND.transpose(2, 3)), ("video", "_v", picture)):
        patches = convolved(state, f"patch_embed{end}", x)  # audio: bins first, index = f * 4 + t
        theirs = [patches + state[f"pos_embed{end}"] + state[f"modality{end}"]]
        for number in range(2):
            name = f"blocks{end}.{number}"
            theirs.append(run_block(state, name, theirs[-1], heads=HEADS, eps=1e-5))
        own[module] = theirs[-1]
        theirs.append(run_block(state, "blocks_u.0", own[module], heads=HEADS, eps=1e-5, end=end))
        theirs.append(norm(state, f"norm{end}", theirs[-1], 1e-5))
        ours = SOUND if module == "audio" else picture.unsqueeze(2)
        found, out = layers(graph.get_submodule(module), x=ours)
        assert worst([*found, out["tokens"]], theirs) < CLOSE
        assert worst([out["own"], out["pooled"]], [own[module], theirs[-1].mean(1)]) < CLOSE
    joint = torch.cat([own["audio"], own["video"]], 1)
    joint = run_block(state, "blocks_u.0", joint, heads=HEADS, eps=1e-5)
    with torch.no_grad():
        batch = {"audio": SOUND, "video": picture.unsqueeze(2)}
        out = graph(batch, ["av.audio", "av.video"])
    fused = torch.cat([out["av.audio"], out["av.video"]], 1)
    assert worst([fused], [norm(state, "norm", joint, 1e-5)]) < CLOSE


def original_names(model: VideoMAEModel) -> dict[str, Tensor]:
    """The weights of transformers' model under VideoMAE's own names."""
    state = model.state_dict()
    found = {
        f"patch_embed.proj.{kind}": state[f"embeddings.patch_embeddings.projection.{kind}"]
        for kind in ("weight", "bias")
    }
    found |= {f"norm.{kind}": state[f"layernorm.{kind}"] for kind in ("weight", "bias")}
    parts = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    for number in range(model.config.num_hidden_layers):
        theirs, ours = f"encoder.layer.{number}", f"blocks.{number}"
        for part, name in parts.items():
            for kind in ("weight", "bias"):
                found[f"{ours}.{name}.{kind}"] = state[f"{theirs}.{part}.{kind}"]
        inner = f"{theirs}.attention.attention"
        split = [state[f"{inner}.{name}.weight"] for name in ("query", "key", "value")]
        found[f"{ours}.attn.qkv.weight"] = torch.cat(split)
        found[f"{ours}.attn.q_bias"] = state[f"{inner}.query.bias"]
        found[f"{ours}.attn.v_bias"] = state[f"{inner}.value.bias"]
    return found


@pytest.fixture(scope="module")
def videomae_model() -> VideoMAEModel:
    config = VideoMAEConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=192,
        image_size=32,
        patch_size=16,
        num_frames=4,
        use_mean_pooling=False,
        layer_norm_eps=1e-6,
    )
    return randomise(VideoMAEModel(config))


CLIP_SIZES = {"heads": HEADS, "image": 32, "frames": 4}


def check_clip(path: Path, name: str, model: VideoMAEModel, **how: object) -> None:
    foreign = read_foreign(path, sizes=CLIP_SIZES, **how)
    assert foreign.layout == name
    with torch.no_grad():
        theirs = model(CLIP.transpose(1, 2), output_hidden_states=True)
    found, out = layers(build(foreign).video, x=CLIP)
    hidden = [*theirs.hidden_states, theirs.last_hidden_state]
    assert worst([*found, out["tokens"]], hidden) < CLOSE


def test_videomae_pre_trained(videomae_model: VideoMAEModel, tmp_path: Path) -> None:
    state = {f"encoder.{name}": item for name, item in original_names(videomae_model).items()}
    state |= {"decoder.head.bias": torch.zeros(3), "mask_token": torch.zeros(1, 1, 8)}
    check_clip(save(tmp_path, {"model": state}), "videomae", videomae_model)


def test_videomae_stripped_may_be_mvd(videomae_model: VideoMAEModel, tmp_path: Path) -> None:
    path = save(tmp_path, {"module": original_names(videomae_model)})
    with pytest.raises(UserError, match=r"may be videomae or mvd.*layout='videomae'"):
        read_foreign(path, sizes=CLIP_SIZES)
    check_clip(path, "videomae", videomae_model, layout="videomae")


def test_mvd_takes_the_positions_of_the_file(
    videomae_model: VideoMAEModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = original_names(videomae_model)
    state |= random_state({"pos_embed": (1, 8, 48), "mask_token_img": (1, 1, 8)})
    path = save(tmp_path, {"model": state})
    monkeypatch.setattr(videomae_model.embeddings, "position_embeddings", state["pos_embed"])
    check_clip(path, "mvd", videomae_model)


def test_mvd_fine_tuned_has_separable_positions(
    videomae_model: VideoMAEModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, {"model": original_names(videomae_model)})
    table = sincos_table_3d([2, 2, 2], 48).float().unsqueeze(0)
    monkeypatch.setattr(videomae_model.embeddings, "position_embeddings", table)
    check_clip(path, "mvd", videomae_model, layout="mvd")


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
    assert set(spec.inputs) == set(file.data.inputs)
    for key, item in spec.inputs.items():
        assert item.shape[1:] == file.data.inputs[key].shape


def test_every_encoder_file_is_of_a_layout() -> None:
    assert {path.stem for path in (CONFIGS / "encoders").glob("*.yaml")} == set(LAYOUTS)
