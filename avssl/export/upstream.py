"""An encoder as an upstream model of AV-SUPERB and of S3PRL, which exported folders import.

Clips of any length are cut into the windows that the encoder was trained on; one that is shorter
than a window is repeated, as in training.

Letters: B clips, W windows of a clip, N samples, T steps in time, C channels, H W height and width,
D width, L layers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import avssl
from avssl.data.batches import finish_inputs, stack_inputs
from avssl.data.config import FbankConfig, FramesConfig
from avssl.data.features import fbank, normalize
from avssl.encoders.encoder import Encoder
from avssl.encoders.load import Encoders
from avssl.encoders.windows import SHORTEST, given_clips
from avssl.errors import UserError
from avssl.export.states import LayeredEncoder, time_grid

ROW = 0.010  # s, between two rows of a filterbank


class AvSuperbUpstream(nn.Module):
    """AV-SUPERB's interface (arXiv 2309.10787): prepare sound and pictures apart, then features.

        upstream = AvSuperbUpstream("folder/encoder")
        pair = upstream.preprocess_audio(wav, 44100), upstream.preprocess_video(pictures, 25)
        upstream([pair])["fusion_feats"]  # a list over layers of [B, 1, D]

    A key that the encoders have nothing for is left out.
    """

    def __init__(
        self,
        ckpt: str | os.PathLike[str],
        model_config: str | os.PathLike[str] | None = None,
        **_: Any,
    ) -> None:
        """ckpt: the encoder folder. model_config: not needed, the folder holds everything; it is an
        argument because the benchmark passes it."""
        super().__init__()
        encoders = avssl.load(ckpt)
        audio, video = _reading(encoders, FbankConfig), _reading(encoders, FramesConfig)
        fusion = _reading(encoders, FbankConfig, FramesConfig)
        if fusion is not None:  # one copy of the towers, also when they are trained
            for alone in (audio, video):
                if alone is not None and alone.name in fusion.towers:
                    fusion.towers[alone.name] = alone.tower
        self.audio, self.video, self.fusion = (
            None if encoder is None else LayeredEncoder(encoder)
            for encoder in (audio, video, fusion)
        )
        self.eval()

    def preprocess_audio(self, audio: Tensor, audio_sample_rate: int) -> Tensor:
        """Filterbanks of the windows of a sound.

        audio: [N] or [C, N], float in [-1, 1]; a clip without sound ([0]) counts as silence.
        audio_sample_rate: Hz.

        Returns float32 [W, 1, T, F]; zeros [1] where no encoder reads sound.
        """
        if self.audio is None:
            return torch.zeros(1)
        wave = audio.mean(0) if audio.ndim == 2 else audio  # [N]
        rate = audio_sample_rate or 16000
        if len(wave) < SHORTEST * rate:
            wave = torch.nn.functional.pad(wave, (0, int(SHORTEST * rate) + 1 - len(wave)))
        return _prepared(self.audio.encoder, wave, sample_rate=int(rate))

    def preprocess_video(self, video: Tensor, video_frame_rate: float) -> Tensor:
        """Pictures of the windows of a clip.

        video: uint8 [T, C, H, W], RGB or one channel. video_frame_rate: pictures per second.

        Returns float32 [W, 3, T, H, W]; zeros [1] where no encoder reads pictures.
        """
        if self.video is None:
            return torch.zeros(1)
        pictures = video.expand(-1, 3, -1, -1) if video.shape[1] == 1 else video
        pictures = pictures.permute(0, 2, 3, 1)  # [T, H, W, 3]
        if pictures.dtype != torch.uint8:
            pictures = pictures.round().clamp(0, 255).byte()
        return _prepared(self.video.encoder, pictures, fps=float(video_frame_rate))

    def forward(self, source: Sequence[tuple[Tensor, Tensor]]) -> dict[str, list[Tensor]]:
        """Features of clips.

        source: of each clip, what `preprocess_audio` and `preprocess_video` gave.

        Returns lists over layers, from the embedded patches to the encoder's output: audio_feats,
        video_feats and fusion_feats, each [B, 1, D], the mean over a clip; audio_seq_feats and
        video_seq_feats, [B, T, D], the mean over each step in time, padded with zeros.
        """
        audio, video = zip(*source, strict=True)
        result: dict[str, list[Tensor]] = {}
        for kind, encoder, clips in (("audio", self.audio, audio), ("video", self.video, video)):
            if encoder is not None:
                states = encoder.in_time(clips)  # of each clip, [L, W, T, D]
                steps = [x.flatten(1, 2) for x in states]  # [L, W * T, D]
                result[f"{kind}_feats"] = _by_layer([x.mean(1, keepdim=True) for x in steps])
                result[f"{kind}_seq_feats"] = _by_layer(steps)
        if self.fusion is not None:
            result["fusion_feats"] = _by_layer(self._fused(audio, video))
        return result

    def _fused(self, audio: Sequence[Tensor], video: Sequence[Tensor]) -> list[Tensor]:
        """Of each clip, [L, 1, D]: the mean over the windows that both have."""
        assert self.fusion is not None
        counts = [min(len(a), len(v)) for a, v in zip(audio, video, strict=True)]
        inputs = {}
        for name, recipe in self.fusion.encoder.inputs.items():
            clips = audio if isinstance(recipe, FbankConfig) else video
            inputs[name] = torch.cat([x[:n] for x, n in zip(clips, counts, strict=True)])
        states = self.fusion(inputs, pool="mean")  # [L, W, D]
        return [x.mean(1, keepdim=True) for x in states.split(counts, dim=1)]


class SpeechUpstream(nn.Module):
    """S3PRL's interface: hidden states of 16 kHz waveforms, one step for each patch in time.

    upstream = SpeechUpstream("folder/encoder")
    upstream([torch.randn(16000), torch.randn(32000)])["hidden_states"]  # a list of [B, T, D]
    """

    sample_rate = 16000

    def __init__(
        self,
        ckpt: str | os.PathLike[str],
        model_config: str | os.PathLike[str] | None = None,
        **_: Any,
    ) -> None:
        """ckpt, model_config: as of `AvSuperbUpstream`."""
        super().__init__()
        found = _reading(avssl.load(ckpt), FbankConfig)
        if found is None:
            raise UserError(f"{ckpt} has no encoder that reads sound alone, which S3PRL needs")
        self.audio = LayeredEncoder(found)
        (self.recipe,) = found.inputs.values()
        self.grid = time_grid(found.tower, self.recipe)
        self.eval()

    def get_downsample_rates(self, key: str) -> int:
        """Samples of one step; the same for every key."""
        return round(self.grid.length * ROW * self.sample_rate)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """wavs: 16 kHz, [N_i] each. Returns hidden_states, a list over layers of [B, T, D] padded
        with zeros, and last_hidden_state; a wave has one step for each downsample rate of it."""
        clips = [self._rows(wave.detach().float().cpu()) for wave in wavs]
        counts = [count for _, count in clips]
        states = self.audio.in_time([pieces for pieces, _ in clips])  # of each, [L, W, T, D]
        hidden = _by_layer([_whole(x, n) for x, n in zip(states, counts, strict=True)])
        return {"hidden_states": hidden, "last_hidden_state": hidden[-1]}

    def _rows(self, wave: Tensor) -> tuple[Tensor, int]:
        """Filterbanks of a wave [N] in pieces [W, 1, T, F] of the trained length, the last of which
        ends with the wave, and the number of steps they hold. A shorter wave is repeated."""
        recipe, step = self.recipe, self.grid.length
        assert isinstance(recipe, FbankConfig)
        shift, frame = int(self.sample_rate * ROW), int(self.sample_rate * SHORTEST)
        rows = max(1 + (len(wave) - frame) // shift, step)
        count = rows // step
        samples = max(rows, recipe.frames) * shift + frame
        if len(wave) < samples and rows <= recipe.frames:
            wave = wave if len(wave) else torch.zeros(1)
            wave = wave.repeat(math.ceil(samples / len(wave)))[:samples]
        bank = fbank(wave[None], sample_rate=self.sample_rate, bins=recipe.bins)
        bank = normalize(bank, mean=recipe.mean, std=recipe.std)  # [1, T', F]
        held = self.grid.steps * step  # rows that a piece has steps for
        last = max(count * step - held, 0)
        starts = [*range(0, last, held), last]
        pieces = [bank[:, first : first + recipe.frames] for first in starts]
        return torch.stack(pieces), count


def _reading(encoders: Encoders, *kinds: type) -> Encoder | None:
    """The encoder whose inputs are of exactly these kinds."""
    wanted = sorted(kind.__name__ for kind in kinds)
    for name in encoders.names:
        if sorted(type(item).__name__ for item in encoders[name].inputs.values()) == wanted:
            return encoders[name]
    return None


def _prepared(
    encoder: Encoder, clip: Tensor, *, sample_rate: int | None = None, fps: float | None = None
) -> Tensor:
    """The windows of a clip as an encoder of one input takes them: [W, ...]."""
    (name,) = encoder.inputs
    _, windows = given_clips(
        [clip.cpu()], encoder.data, sample_rate=sample_rate, fps=fps, span="all"
    )
    raw = [item for _, item in windows]
    return finish_inputs(stack_inputs(raw, encoder.inputs), encoder.inputs)[name]


def _whole(states: Tensor, count: int) -> Tensor:
    """Pieces [L, W, T, D], the last of which ends with the wave, as one sequence [L, count, D]."""
    steps = states.shape[2]
    full = states[:, :-1].flatten(1, 2)  # [L, (W - 1) * T, D]
    missing = count - full.shape[1]
    last = states[:, -1]  # [L, T, D]
    last = last[:, :count] if states.shape[1] == 1 else last[:, steps - missing :]
    return torch.cat([full, last], dim=1)


def _by_layer(clips: Sequence[Tensor]) -> list[Tensor]:
    """Of each clip [L, T, D] -> of each layer [B, T, D], padded with zeros."""
    padded = pad_sequence([x.transpose(0, 1) for x in clips], batch_first=True)  # [B, T, L, D]
    return list(padded.unbind(2))
