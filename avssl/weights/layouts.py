"""The layouts of released checkpoints that avssl knows, and how each is told from the others.

| layout | files of | modules | told by |
|---|---|---|---|
| mavil_avsuperb | MAViL in the AV-SUPERB benchmark | audio, video, fusion | blocks_v, blocks_av |
| cavmae | YuanGongND/cav-mae | audio, video, fusion | blocks_u, modality_a |
| audiomae | facebookresearch/AudioMAE | audio | timm's names over one channel |
| mae | facebookresearch/mae | image | a decoder, or its fixed positions |
| mocov3 | facebookresearch/moco-v3 | image | base_encoder. |
| timm_vit | timm's plain ViTs | image | timm's names over three channels, positions not fixed |
| videomae | MCG-NJU/VideoMAE | video | q_bias; encoder. |
| mvd | ruiwang2021/mvd | video | q_bias; pos_embed or its two decoders |
| hf_vit, hf_vitmae | transformers | image | config.json, else names |
| hf_ast | transformers | audio | the same |
| hf_videomae | transformers | video | the same |
| raven_video | ahaliassos/raven | video | frontend.frontend3D |
| raven_audio | ahaliassos/raven | audio | frontend.trunk.conv1 |

What names do not tell, and how it is filled: heads from the width (`conversion.HEADS`; MoCo v3's
ViTs have 12 throughout, `pictures.MOCOV3_HEADS`) or config.json; pictures of 224 pixels and clips
of 16 frames where the file holds no positions (`clips.IMAGE`, `clips.FRAMES`); 128 mel bins
(`sounds.BINS`); AST's stride of 10 and 1024 frames (`huggingface.STRIDE`, `huggingface.FRAMES`);
the epsilon of the norms (encoder files). `sizes=` stands over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from avssl.blocks.positions import sincos_table_2d
from avssl.errors import UserError
from avssl.weights import clips, huggingface, joint, pictures, sounds, speech
from avssl.weights.conversion import Conversion, plain, strip
from avssl.weights.files import Checkpoint
from avssl.weights.huggingface import POSITIONS, PROJECTION


@dataclass(frozen=True)
class Layout:
    """One way to name the tensors of a model.

    Attributes:
        convert: fills a `Conversion`.
        matches: whether tensors, prefixes taken off, are of this layout.
        prefixes: taken off the names that have them.
        left_out: patterns of names that are no part of the encoder.
    """

    convert: Callable[[Conversion], None]
    matches: Callable[[Mapping[str, Tensor], Checkpoint], bool]
    prefixes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def _axes(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors[name].dim() if name in tensors else 0


def _any(tensors: Mapping[str, Tensor], *starts: str) -> bool:
    return any(name.startswith(starts) for name in tensors)


def _timm(tensors: Mapping[str, Tensor], *, axes: int, channels: int) -> bool:
    """timm's names, over an input of so many axes and channels."""
    name = "patch_embed.proj.weight"
    return (
        _axes(tensors, name) == axes
        and tensors[name].shape[1] == channels
        and _any(tensors, "blocks.0.attn.qkv.weight")
    )


def _picture(tensors: Mapping[str, Tensor]) -> bool:
    return _timm(tensors, axes=4, channels=3) and _axes(tensors, "pos_embed") == 3


def _mae(tensors: Mapping[str, Tensor]) -> bool:
    """A picture's ViT with a decoder, or with MAE's own fixed positions."""
    return _picture(tensors) and (
        _any(tensors, "decoder_", "mask_token") or _fixed_positions(tensors["pos_embed"])
    )


def _fixed_positions(table: Tensor) -> bool:
    """Whether a table [1, 1 + N, D] is MAE's."""
    _, rows, width = table.shape
    side = math.isqrt(max(rows - 1, 0))
    if side < 1 or side * side != rows - 1 or width % 4:
        return False
    codes = sincos_table_2d([side, side], width).to(table)
    return _no_cls_row(table) and bool(torch.allclose(table[0, 1:], codes, atol=1e-3))


def _no_cls_row(table: Tensor) -> bool:
    """Whether the first row is zero, as in fixed tables."""
    return plain(table) and not bool(table[:, 0].any())


def _clip(tensors: Mapping[str, Tensor]) -> bool:
    return _timm(tensors, axes=5, channels=3) and "blocks.0.attn.q_bias" in tensors


def _mvd(tensors: Mapping[str, Tensor]) -> bool:
    return "pos_embed" in tensors or _any(tensors, "mask_token_", "down_", "decoder_")


def _hugging_face(kind: str, checkpoint: Checkpoint, by_name: bool) -> bool:
    """Told by the folder's config.json, else by names."""
    model = checkpoint.config.get("model_type")
    return by_name if model is None else model == kind


def _hf_picture(tensors: Mapping[str, Tensor], *, mae: bool) -> bool:
    if _axes(tensors, f"{PROJECTION}.weight") != 4 or _axes(tensors, POSITIONS) != 3:
        return False
    fixed = _any(tensors, "decoder.decoder_") or _fixed_positions(tensors[POSITIONS])
    return fixed == mae and "embeddings.distillation_token" not in tensors


HEADS = ("head.*", "fc_norm.*")  # a classifier
# what fine-tuning adds; and how many batches the running statistics saw
SPEECH = ("ctc.*", "decoder.*", "*.num_batches_tracked")
HF_HEADS = ("classifier.*", "pooler.*", "fc_norm.*", "decoder.*", "mask_token")

LAYOUTS: dict[str, Layout] = {
    "mavil_avsuperb": Layout(
        joint.mavil,
        lambda t, _: _any(t, "blocks_av.0.") and _any(t, "blocks_v.0."),
        left_out=("head*", "fc_norm*", "norm.*", "norm_*", "mask_token*", "*decoder*"),
    ),
    "cavmae": Layout(
        joint.cavmae,
        lambda t, _: _any(t, "blocks_u.0.") and "modality_a" in t,
        left_out=(
            "decoder_*",
            "mask_token",
            "mlp_head.*",
            # blocks of one modality carry norms for all three passes, and use the joint ones
            "blocks_[av].*.norm[12]_[av].*",
        ),
    ),
    "audiomae": Layout(
        sounds.audiomae,
        lambda t, _: _timm(t, axes=4, channels=1) and not _any(t, "blocks_v.0."),
        left_out=("decoder_*", "mask_token", *HEADS),
    ),
    "mae": Layout(
        pictures.mae,
        lambda t, _: _mae(t),
        left_out=("decoder_*", "mask_token", "aligned_feature_projection_heads.*", *HEADS),
    ),
    "timm_vit": Layout(
        pictures.picture,
        lambda t, _: _picture(t) and not _mae(t),
        left_out=("head_dist.*", *HEADS),
    ),
    "mocov3": Layout(
        pictures.mocov3,
        # without its prefix it differs from timm's ViTs in heads alone: fixed positions hint at it
        lambda t, c: (
            _picture(t)
            and not _mae(t)
            and (_any(c.tensors, "base_encoder.") or _no_cls_row(t["pos_embed"]))
        ),
        prefixes=("base_encoder.",),
        left_out=("head.*", "momentum_encoder.*", "predictor.*"),
    ),
    "videomae": Layout(
        clips.videomae,
        lambda t, _: _clip(t) and not _mvd(t),
        prefixes=("encoder.",),
        left_out=("decoder.*", "encoder_to_decoder.*", "mask_token", *HEADS),
    ),
    "mvd": Layout(
        clips.mvd,
        # fine-tuned files have the names of VideoMAE's
        lambda t, c: _clip(t) and (_mvd(t) or not _any(c.tensors, "encoder.")),
        left_out=("mask_token*", "down_*", "pos_embed_*", "decoder_*", *HEADS),
    ),
    "hf_vit": Layout(
        huggingface.picture,
        lambda t, c: _hugging_face("vit", c, _hf_picture(t, mae=False)),
        prefixes=("vit.",),
        left_out=(*HF_HEADS, "embeddings.mask_token"),
    ),
    "hf_vitmae": Layout(
        huggingface.picture,
        lambda t, c: _hugging_face("vit_mae", c, _hf_picture(t, mae=True)),
        prefixes=("vit.",),
        left_out=HF_HEADS,
    ),
    "hf_ast": Layout(
        huggingface.ast,
        lambda t, c: _hugging_face(
            "audio-spectrogram-transformer",
            c,
            "embeddings.distillation_token" in t
            and _axes(t, f"{PROJECTION}.weight") == 4
            and t[f"{PROJECTION}.weight"].shape[1] == 1,
        ),
        prefixes=("audio_spectrogram_transformer.",),
        left_out=HF_HEADS,
    ),
    "hf_videomae": Layout(
        huggingface.videomae,
        lambda t, c: _hugging_face("videomae", c, _axes(t, f"{PROJECTION}.weight") == 5),
        prefixes=("videomae.",),
        left_out=(*HF_HEADS, "encoder_to_decoder.*"),
    ),
    "raven_video": Layout(
        speech.raven_video,
        lambda t, _: _axes(t, "frontend.frontend3D.0.weight") == 5,
        prefixes=("encoder.",),
        left_out=SPEECH,
    ),
    "raven_audio": Layout(
        speech.raven_audio,
        lambda t, _: _axes(t, "frontend.trunk.conv1.weight") == 3,
        prefixes=("encoder.",),
        left_out=SPEECH,
    ),
}


def detect(checkpoint: Checkpoint) -> str:
    """The name of the layout of a checkpoint.

    Raises:
        UserError: it may be of several layouts, or is of none.
    """
    found = [
        name
        for name, layout in LAYOUTS.items()
        if layout.matches(strip(checkpoint.tensors, layout.prefixes), checkpoint)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{checkpoint.path} may be {' or '.join(found)}, which its names do not tell: say "
            f"layout='{found[0]}' or another of them; in a graph, "
            f"{{file: ..., module: ..., layout: {found[0]}}}"
        )
    names = ", ".join(sorted(checkpoint.tensors)[:4])
    raise UserError(
        f"{checkpoint.path} is of no known layout ({', '.join(LAYOUTS)}); it holds "
        f"{len(checkpoint.tensors)} tensors such as {names}"
    )
