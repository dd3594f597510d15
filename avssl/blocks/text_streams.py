"""What stands around the encoders of speech recognition: masks in time, and two streams made one.

Letters: B clips, T frames, V real frames, K spans, D width.
"""

import torch
from torch import Tensor, nn

from avssl.blocks.init import init_layers
from avssl.ops.frames import valid_frames
from avssl.ops.random import batch_uniform
from avssl.registry import register


@register("stride_mask")
class StrideMask(nn.Module):
    """Masks spans of frames in training: one for each `stride` frames of a clip, each of 0 to
    `window` - 1 frames, anywhere in the clip. RAVEn (arXiv 2212.06246): a window of 10 for 25
    frames of video, of 15 for 50 of sound.

    Args:
        window: first length that no span has, frames; 0: no mask. stride: frames per span.

    Example::

        StrideMask(window=10, stride=25)(torch.zeros(8, 1, 75, 88, 88)).shape  # [8, 75]
    """

    outputs = ("mask",)

    def __init__(self, *, window: int, stride: int) -> None:
        super().__init__()
        if window < 0 or stride < 1:
            raise ValueError(f"stride_mask: window {window} is below 0 or stride {stride} below 1")
        self.window, self.stride = window, stride

    def forward(self, like: Tensor, frames: Tensor | None = None) -> Tensor:
        """Draw one mask per clip.

        Args:
            like: [B, 1, T, S, S] or [B, T, 640], read for its shape and device alone.
            frames: int64 [V], the real ones of [B * T]; None: all.

        Returns:
            float32 [B, T], 1 where masked; zeros outside training.
        """
        batch, time = like.shape[0], like.shape[2] if like.dim() == 5 else like.shape[1]
        if not self.training or self.window == 0:
            return torch.zeros(batch, time, device=like.device)
        length = valid_frames(frames, batch, time, device=like.device).sum(1)  # [B]
        return self._spans(length, batch, time).to(torch.float32)

    def _spans(self, length: Tensor, batch: int, time: int) -> Tensor:
        """Which frames are masked, bool [B, T]."""
        most = -(-time // self.stride)  # K
        draw = batch_uniform(batch, 2 * most, device=length.device)  # [B, 2K]
        size, place = draw.unflatten(1, (2, most)).unbind(1)  # [B, K]
        size = (size * self.window).floor().minimum(length[:, None])  # [B, K]
        start = (place * (length[:, None] - size + 1)).floor()  # [B, K]
        number = torch.arange(most, device=length.device)  # [K]
        size = size * (number * self.stride < length[:, None])  # one for each stride of the clip
        at = torch.arange(time, device=length.device)[:, None]  # [T, 1]
        return ((at >= start[:, None]) & (at < (start + size)[:, None])).any(-1)  # [B, T]


@register("join_streams")
class JoinStreams(nn.Module):
    """Sound and picture of each frame, side by side, through LayerNorm and a linear layer, as
    AV-HuBERT has it (arXiv 2201.02184).

    In training a whole batch does without one of the two now and then, so that either alone will
    do: its features are zeros.

    Args:
        audio, video: widths of the two. width: D.
        modality_dropout: probability that a batch does without one of them.
        audio_dropout: probability that this is the sound.

    Example::

        join = JoinStreams(audio=512, video=512, width=512)
        join.init_weights()
        join(torch.randn(2, 75, 512), torch.randn(2, 75, 512)).shape  # [2, 75, 512]
    """

    outputs = ("out",)

    def __init__(
        self,
        *,
        audio: int,
        video: int,
        width: int,
        modality_dropout: float = 0.0,
        audio_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in (("modality", modality_dropout), ("audio", audio_dropout)):
            if not 0 <= value <= 1:
                raise ValueError(f"join_streams: {name}_dropout {value} is not in [0, 1]")
        self.modality_dropout, self.audio_dropout = modality_dropout, audio_dropout
        self.widths = {"audio": audio, "video": video}
        self.norm = nn.LayerNorm(audio + video)
        self.proj = nn.Linear(audio + video, width)

    def init_weights(self) -> None:
        init_layers(self)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """audio, video: [B, T, ...]. Returns [B, T, D]."""
        if self.training and self.modality_dropout:
            draw = torch.rand(2, device=audio.device)  # the same on every rank: see batch_uniform
            one = draw[0] < self.modality_dropout
            deaf = draw[1] < self.audio_dropout
            audio = audio * ~(one & deaf)
            video = video * ~(one & ~deaf)
        return self.proj(self.norm(torch.cat([audio, video], dim=-1)))  # [B, T, D]
