"""`avssl.load` of other projects' files: raw sound and pictures give what the reference model gives
on the tensors that its project prepares.

Letters: B batch, N samples, T frames, F mel bins, H W height width, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchaudio.compliance import kaldi
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

import avssl
from avssl.encoders.load import Encoders
from avssl.weights.layouts import LAYOUTS
from tests.weights.plain import (
    convolved,
    mae_tower,
    norm,
    original_names,
    picture_positions,
    random_state,
    randomise,
    run_block,
    save,
)
from tests.weights.raven import encode, raven
from tests.weights.shapes import audiomae, cavmae, mavil

RATE, CLOSE, HEADS = 16000, 1e-4, 3
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
AUDIOSET = (-4.2677393, 2 * 4.5689974)  # mean and divisor
WAVE = 0.3 * torch.randn(RATE, generator=torch.Generator().manual_seed(3))  # [N], 1 s
SIDE = 64  # pixels
PICTURES = torch.from_numpy(
    np.random.default_rng(4).integers(0, 256, (10, SIDE, SIDE, 3), dtype=np.uint8)
)  # [T, H, W, 3]
FACES = torch.from_numpy(
    np.random.default_rng(5).integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
)  # [T, H, W, 3]: 0.48 s of mouth crops
HF = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": HEADS}
HF |= {"intermediate_size": 96, "image_size": SIDE}
TIMM = {"img_size": SIDE, "embed_dim": 48, "depth": 2, "num_heads": HEADS, "num_classes": 0}
CLIP = {"heads": HEADS, "image": SIDE, "frames": 4}
SOUND = {"heads": HEADS, "mel_bins": 32}


def prepared(pictures: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """[T, H, W, 3] bytes as float32 [1, 3, T, H, W]."""
    x = (pictures.double() / 255 - torch.tensor(mean)) / torch.tensor(std)
    return x.permute(3, 0, 1, 2)[None].float()


def spectrogram(wave: Tensor, frames: int, mean: float, divisor: float) -> Tensor:
    """[N] as float32 [1, 1, T, F] of 32 bins, padded with zeros."""
    x = kaldi.fbank(
        (wave - wave.mean())[None],
        htk_compat=True,
        sample_frequency=RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=32,
        dither=0.0,
        frame_shift=10,
    )[:frames]
    x = F.pad(x, (0, 0, 0, frames - len(x)))
    return ((x - mean) / divisor)[None, None]


def picture(av: Encoders) -> Tensor:
    return av.image(PICTURES[:1], fps=1)


def clip(av: Encoders) -> Tensor:
    """Four pictures that fill the window."""
    return av.video(PICTURES[:4], fps=4 / av.data("corpus:scenes").window)


def timm_file(folder: Path, name: str) -> tuple[Path, Tensor]:
    """A ViT of timm as MAE, MoCo v3 and timm name it, and its features of the first picture."""
    model = randomise(VisionTransformer(**TIMM))
    if name == "mae":
        model.pos_embed.data[:, :1] = 0
        model.pos_embed.data[:, 1:] = picture_positions(4, 48)
    state = model.state_dict()
    if name == "mocov3":
        state = {f"module.base_encoder.{key}": item for key, item in state.items()}
    x = prepared(PICTURES[:1], *IMAGENET)[:, :, 0]  # [1, 3, H, W]
    return save(folder, {"model": state}), model.forward_features(x)[:, 1:].mean(1)


def hf_vit(folder: Path) -> tuple[Path, Tensor]:
    model = randomise(ViTModel(ViTConfig(**HF)))
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.1, 0.2, 0.3])
    for part in (model, processor):
        part.save_pretrained(folder)
    x = processor(PICTURES[0].numpy(), return_tensors="pt")["pixel_values"]  # [1, 3, H, W]
    return folder, model(x).last_hidden_state[:, 1:].mean(1)


def hf_vitmae(folder: Path) -> tuple[Path, Tensor]:
    model = randomise(ViTMAEModel(ViTMAEConfig(**HF, mask_ratio=0.0)))
    model.save_pretrained(folder)
    x = prepared(PICTURES[:1], *IMAGENET)[:, :, 0]
    order = torch.arange(16.0)[None]  # no patch is moved
    return folder, model(x, noise=order).last_hidden_state[:, 1:].mean(1)


def hf_ast(folder: Path) -> tuple[Path, Tensor]:
    sizes = {key: item for key, item in HF.items() if key != "image_size"}
    model = randomise(ASTModel(ASTConfig(**sizes, max_length=64, num_mel_bins=32)))
    extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=64, mean=-5.0, std=3.0)
    for part in (model, extractor):
        part.save_pretrained(folder)
    sound = WAVE[: round(0.64 * RATE)].numpy()
    x = extractor(sound, sampling_rate=RATE, return_tensors="pt")["input_values"]  # [1, T, F]
    return folder, model(x).last_hidden_state[:, 2:].mean(1)


def clip_file(folder: Path, name: str) -> tuple[Path, Tensor]:
    """VideoMAE in three spellings."""
    config = VideoMAEConfig(**HF, num_frames=4, use_mean_pooling=False, layer_norm_eps=1e-6)
    model = randomise(VideoMAEModel(config))
    state = original_names(model)
    path = folder
    if name == "hf_videomae":
        model.save_pretrained(folder)
    elif name == "videomae":
        path = save(folder, {"model": {f"encoder.{key}": item for key, item in state.items()}})
    else:
        table = random_state({"pos_embed": (1, 32, 48)})
        path = save(folder, {"model": {**state, **table}})
        model.embeddings.position_embeddings = table["pos_embed"]
    x = prepared(PICTURES[:4], *IMAGENET).transpose(1, 2)  # [1, T, 3, H, W]
    return path, model(x).last_hidden_state.mean(1)


def audiomae_file(folder: Path) -> tuple[Path, Tensor]:
    state = random_state(audiomae(48, 2, 16, 8))
    x = spectrogram(WAVE[: round(0.625 * RATE)], 64, *AUDIOSET)
    tokens = norm(state, "norm", mae_tower(state, "", x, 2, heads=HEADS)[-1], 1e-6)
    return save(folder, {"model": state}), tokens[:, 1:].mean(1)


def mavil_file(folder: Path) -> tuple[Path, Tensor]:
    """Both towers and their fusion; 1.25 s of sound are 125 frames."""
    state = random_state(mavil(48, 2, 1, 16, 16, 2 * 16))
    sound = spectrogram(long_wave(), 128, *AUDIOSET)
    video = prepared(PICTURES[:4], *IMAGENET)
    towers = [
        mae_tower(state, end, x, 2, heads=HEADS)[-1] for end, x in (("", sound), ("_v", video))
    ]
    fused = run_block(state, "blocks_av.0", torch.cat(towers, 1), heads=HEADS, eps=1e-6)
    means = [fused[:, 1:17].mean(1), fused[:, 18:].mean(1)]
    return save(folder, {"model": state}), torch.cat(means, 1)


def cavmae_file(folder: Path) -> tuple[Path, Tensor]:
    state = random_state(cavmae(48, 1, 16, 16, 16))
    sound = spectrogram(long_wave(), 128, -5.081, 4.4849).transpose(2, 3)  # bins first
    still = prepared(PICTURES[1:2], *IMAGENET)[:, :, 0]  # shown in the middle
    own = []
    for end, x in (("_a", sound), ("_v", still)):
        tokens = convolved(state, f"patch_embed{end}", x) + state[f"pos_embed{end}"]
        tokens = tokens + state[f"modality{end}"]
        own.append(run_block(state, f"blocks{end}.0", tokens, heads=HEADS, eps=1e-5))
    fused = run_block(state, "blocks_u.0", torch.cat(own, 1), heads=HEADS, eps=1e-5)
    fused = norm(state, "norm", fused, 1e-5)
    return save(folder, state), torch.cat([fused[:, :16].mean(1), fused[:, 16:].mean(1)], 1)


def raven_file(folder: Path, kind: str) -> tuple[Path, Tensor]:
    state = raven(kind, channels=8, width=24, depth=2, heads=2, hidden=40)
    if kind == "audio":
        x = WAVE[: 12 * 640]
    else:
        grey = [Image.fromarray(face.numpy()).convert("L").crop((4, 4, 92, 92)) for face in FACES]
        x = torch.from_numpy((np.stack(grey) / 255 - 0.421) / 0.165).float()[None]  # [1, T, 88, 88]
    return save(folder, state), encode(state, kind, x)[-1].mean(0, keepdim=True)


def long_wave() -> Tensor:
    return WAVE.repeat(2)[: round(1.25 * RATE)]


def both(av: Encoders) -> Tensor:
    """1.25 s of sound and four pictures over the same time."""
    given = {"audio": long_wave(), "video": PICTURES[:4]}
    return av.audio_video(given, sample_rate=RATE, fps=4 / 1.25)


Case = tuple[Callable[[Path], tuple[Path, Tensor]], Callable[[Encoders], Tensor], Mapping[str, Any]]
# layout: writes a file and gives the reference's features; ours; sizes that files do not show
CASES: dict[str, Case] = {
    **{
        name: ((lambda folder, name=name: timm_file(folder, name)), picture, {"heads": HEADS})
        for name in ("mae", "mocov3", "timm_vit")
    },
    "hf_vit": (hf_vit, picture, {}),
    "hf_vitmae": (hf_vitmae, picture, {}),
    "hf_ast": (hf_ast, lambda av: av.audio(WAVE[: round(0.64 * RATE)], sample_rate=RATE), {}),
    "hf_videomae": (lambda folder: clip_file(folder, "hf_videomae"), clip, {}),
    "videomae": (lambda folder: clip_file(folder, "videomae"), clip, CLIP),
    "mvd": (lambda folder: clip_file(folder, "mvd"), clip, CLIP),
    "audiomae": (
        audiomae_file,
        lambda av: av.audio(WAVE[: round(0.625 * RATE)], sample_rate=RATE),
        SOUND,
    ),
    "mavil_avsuperb": (mavil_file, both, {**SOUND, "image": SIDE}),
    "cavmae": (cavmae_file, both, SOUND),
    "raven_video": (
        lambda folder: raven_file(folder, "video"),
        lambda av: av.video(FACES, fps=25),
        {},
    ),
    "raven_audio": (
        lambda folder: raven_file(folder, "audio"),
        lambda av: av.audio(WAVE[: 12 * 640], sample_rate=RATE),
        {},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_raw_clips_give_the_features_of_the_reference(name: str, tmp_path: Path) -> None:
    write, features, sizes = CASES[name]
    with torch.no_grad():
        path, expected = write(tmp_path)
    av = avssl.load(path, sizes=sizes or None)
    assert av.description["layout"] == name and av.description["licence"]
    found = features(av)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < CLOSE


def test_a_long_sound_is_heard_to_its_end(tmp_path: Path) -> None:
    """Windows are as long as the spectrogram of the file, not as that of the released files."""
    path, _ = audiomae_file(tmp_path)
    audio = avssl.load(path, sizes=SOUND, module="audio")
    silent = torch.cat([WAVE, torch.zeros(RATE)])
    ended = torch.cat([WAVE, torch.zeros(RATE // 2), WAVE[: RATE // 2]])
    assert not torch.allclose(*(audio(x, sample_rate=RATE) for x in (silent, ended)))
