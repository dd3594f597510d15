"""ViTs over a spectrogram: AudioMAE's.

Letters: D width, N patches.
"""

from __future__ import annotations

from torch import Tensor

from avssl.errors import UserError
from avssl.weights.conversion import Conversion

BINS = 128  # mel bins of every released model over spectrograms


def audiomae(conversion: Conversion) -> None:
    """Fill the module `audio` of graphs/encoders/audiomae.yaml."""
    c = conversion
    width, _, patch, _ = c.shape("patch_embed.proj.weight", 4)
    c.transformer(width, "blocks.0.mlp.fc1.weight")
    frames, bins = spectrogram(c, c.shape("pos_embed", 3)[1] - 1, patch)
    depth = c.depth("blocks")
    fine_tuned = "fc_norm.weight" in c and "norm.weight" not in c
    c.args |= {"depth": depth, "mel_frames": frames, "mel_bins": bins, "patch": patch}
    c.args["norm"] = "none" if fine_tuned else "layer"
    c.data["audio"] = {"frames": frames, "bins": bins}
    stem(c, "audio")
    c.blocks("audio", "encoder", "blocks", depth)
    if not fine_tuned:
        c.layer("audio", "norm.norm", "norm")


def spectrogram(c: Conversion, patches: int, patch: int) -> tuple[int, int]:
    """Frames and bins of the spectrogram that so many patches cover, side by side."""
    bins = c.given("mel_bins", BINS)
    frames = patches * patch * patch // bins
    if bins % patch or frames * bins != patches * patch * patch or frames % patch:
        raise UserError(
            f"{c.path}: {patches} patches of {patch} x {patch} do not cover a spectrogram of "
            f"{bins} bins: give sizes={{'mel_bins': ...}}"
        )
    return c.given("mel_frames", frames), bins


def stem(c: Conversion, module: str, suffix: str = "") -> None:
    """Patches, positions and the CLS token, whose own row of positions joins it."""
    c.layer(module, "stem.proj", f"patch_embed{suffix}.proj")
    table, token = f"pos_embed{suffix}", f"cls_token{suffix}"
    c.put(module, "positions.table", table, make=lambda rows: rows[:, 1:])
    c.put(module, "cls.cls_token", token, table, make=with_row)


def with_row(token: Tensor, table: Tensor) -> Tensor:
    """A CLS token [1, 1, D] and the first row of its table [1, 1 + N, D], added."""
    if token.shape != table[:, :1].shape:  # which would broadcast
        raise RuntimeError("the token is not as wide as the table")
    return token + table[:, :1]
