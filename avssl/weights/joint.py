"""Models of sound and picture: MAViL's and CAV-MAE's.

Letters: D width, N patches.
"""

from __future__ import annotations

from avssl.weights.clips import clip_size
from avssl.weights.conversion import Conversion
from avssl.weights.pictures import one_frame
from avssl.weights.sounds import spectrogram, stem

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def mavil(conversion: Conversion) -> None:
    """Fill the modules `audio`, `video` and `fusion` of graphs/encoders/mavil.yaml."""
    c = conversion
    width, _, patch, _ = c.shape("patch_embed.proj.weight", 4)
    _, _, tubelet, video_patch, _ = c.shape("patch_embed_v.proj.weight", 5)
    c.transformer(width, "blocks.0.mlp.fc1.weight")
    mel_frames, bins = spectrogram(c, c.shape("pos_embed", 3)[1] - 1, patch)
    frames, image = clip_size(c, tubelet, video_patch, c.shape("pos_embed_v", 3)[1] - 1)
    depth, fused = c.depth("blocks"), c.depth("blocks_av")
    c.args |= {"depth": depth, "fusion_depth": fused, "mel_frames": mel_frames, "mel_bins": bins}
    c.args |= {"audio_patch": patch, "frames": frames, "image": image, "tubelet": tubelet}
    c.args["video_patch"] = video_patch
    c.data = {
        "audio": {"frames": mel_frames, "bins": bins},
        "video": {"frames": frames, "size": image},
    }
    for module, suffix in (("audio", ""), ("video", "_v")):
        stem(c, module, suffix)
        c.blocks(module, "encoder", f"blocks{suffix}", depth)
    c.blocks("fusion", "encoder", "blocks_av", fused)


def cavmae(conversion: Conversion) -> None:
    """Fill the modules `audio`, `video` and `fusion` of graphs/encoders/cavmae.yaml.

    The block that both modalities share stands in all three, each with the norms it keeps for that
    pass: of sound, of pictures, and joint.
    """
    c = conversion
    width, _, patch, _ = c.shape("patch_embed_a.proj.weight", 4)
    video_patch = c.shape("patch_embed_v.proj.weight", 4)[2]
    c.transformer(width, "blocks_u.0.mlp.fc1.weight")
    mel_frames, bins = spectrogram(c, c.shape("pos_embed_a", 3)[1], patch)
    image = c.side(c.shape("pos_embed_v", 3)[1], "pos_embed_v") * video_patch
    depth, shared = c.depth("blocks_a"), c.depth("blocks_u")
    c.args |= {"depth": depth, "shared_depth": shared, "mel_frames": mel_frames, "mel_bins": bins}
    c.args |= {"audio_patch": patch, "image": image, "video_patch": video_patch}
    c.data = {"audio": {"frames": mel_frames, "bins": bins}, "video": {"size": image}}
    for module, end in (("audio", "_a"), ("video", "_v")):
        make = one_frame if module == "video" else None
        c.put(module, "stem.proj.weight", f"patch_embed{end}.proj.weight", make=make)
        c.put(module, "stem.proj.bias", f"patch_embed{end}.proj.bias")
        c.put(module, "positions.table", f"pos_embed{end}")
        c.put(module, "modality.vector", f"modality{end}")
        c.blocks(module, "encoder", f"blocks{end}", depth)
        _shared(c, module, "shared", end, shared)
        c.layer(module, "norm.norm", f"norm{end}")
    _shared(c, "fusion", "encoder", "", shared)
    c.layer("fusion", "norm.norm", "norm")


def _shared(c: Conversion, module: str, key: str, end: str, depth: int) -> None:
    """The shared blocks with the norms whose names end so."""
    for number in range(depth):
        ours, theirs = f"{key}.blocks.{number}", f"blocks_u.{number}"
        for part in LAYERS:
            c.layer(module, f"{ours}.{part}", f"{theirs}.{part}")
        for norm in ("norm1", "norm2"):
            c.layer(module, f"{ours}.{norm}", f"{theirs}.{norm}{end}")
