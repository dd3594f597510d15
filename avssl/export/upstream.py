"""An encoder as an upstream model of AV-SUPERB and of S3PRL, which exported folders import.

Clips of any length are cut into the windows that the encoder was trained on; one that is shorter
than a window is prepared as the encoder itself prepares it.

Letters: B clips, W windows of a clip, N samples, T steps in time, C channels, H W height and width,
D width, L layers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import avssl
from avssl.data.batches import finish_inputs, stack_inputs
from avssl.data.config import FbankConfig, FramesConfig
from avssl.encoders.arrays import SHORTEST
from avssl.encoders.encoder import Encoder
from avssl.encoders.load import Encoders
from avssl.encoders.windows import Span, given_clips
from avssl.errors import UserError
from avssl.export.states import LayeredEncoder, time_grid

RATE = 16000  # Hz, of every wave that S3PRL gives
ROW = 160  # samples between two rows of a filterbank at that rate
FRAME = 400  # samples that a row covers


class AvSuperbUpstream(nn.Module):
    """AV-SUPERB's interface (arXiv 2309.10787): prepare sound and pictures apart, then features.

        upstream = AvSuperbUpstream("folder/encoder")
        pair = upstream.preprocess_audio(wav, 44100), upstream.preprocess_video(pictures, 25)
        upstream([pair])["fusion_feats"]  # a list over layers of [B, 1, D]

    A key that the encoders have nothing for is left out. The encoders are loaded on the CPU, clips
    are prepared there, and `.to(device)` moves the rest: features come from, and lie on, the device
    of the weights.
    """

    def __init__(
        self, ckpt: str | os.PathLike[str], model_config: None = None, refresh: bool = False
    ) -> None:
        """Load the encoders.

        Args:
            ckpt: the encoder folder.
            model_config, refresh: the benchmarks pass both to every upstream. The folder holds the
                configuration and nothing is downloaded, so the first must be None and the second
                changes nothing.

        Raises:
            UserError: there is no such folder, it is not whole, or a model_config is given.
        """
        super().__init__()
        _no_config(model_config)
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

    def preprocess_audio(self, audio: Tensor, audio_sample_rate: int | None) -> Tensor:
        """Filterbanks of the windows of a sound.

        Args:
            audio: [N] or [C, N], float in [-1, 1]; a clip without sound ([0]) counts as silence.
            audio_sample_rate: Hz; readers of clips have None where there is no sound.

        Returns:
            float32 [W, 1, T, F]; zeros [1] where no encoder reads sound.

        Raises:
            UserError: there is sound but no rate, or the sound is not finite.
        """
        if self.audio is None:
            return torch.zeros(1)
        wave = audio.mean(0) if audio.ndim == 2 else audio  # [N]
        if not audio_sample_rate and not len(wave):
            audio_sample_rate = RATE  # silence is the same at every rate
        if not audio_sample_rate:
            raise UserError(
                f"a sound of {len(wave)} samples has no audio_sample_rate: give it, in Hz"
            )
        wave = _long_enough(wave, audio_sample_rate)
        return _prepared(self.audio.encoder, wave, sample_rate=int(audio_sample_rate))

    def preprocess_video(self, video: Tensor, video_frame_rate: float) -> Tensor:
        """Pictures of the windows of a clip.

        Args:
            video: [T, C, H, W], RGB or one channel, uint8 or float from 0 to 255.
            video_frame_rate: pictures per second.

        Returns:
            float32 [W, 3, T, H, W]; zeros [1] where no encoder reads pictures.

        Raises:
            UserError: there is no picture, or no rate.
        """
        if self.video is None:
            return torch.zeros(1)
        pictures = video.expand(-1, 3, -1, -1) if video.shape[1] == 1 else video
        pictures = pictures.permute(0, 2, 3, 1)  # [T, H, W, 3]
        if pictures.dtype != torch.uint8:
            pictures = pictures.round().clamp(0, 255).byte()
        fps = float(video_frame_rate) if video_frame_rate else None
        return _prepared(self.video.encoder, pictures, fps=fps)

    def forward(self, source: Sequence[tuple[Tensor, Tensor]]) -> dict[str, list[Tensor]]:
        """Features of clips.

        Args:
            source: of each clip, what `preprocess_audio` and `preprocess_video` gave, on any
                device.

        Returns:
            Lists over layers, from the embedded patches to the encoder's output: audio_feats,
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
        for name, recipe in self.fusion.encoder.fixed_inputs.items():
            clips = audio if isinstance(recipe, FbankConfig) else video
            inputs[name] = torch.cat([x[:n] for x, n in zip(clips, counts, strict=True)])
        states = self.fusion(inputs, pool="mean")  # [L, W, D]
        return [x.mean(1, keepdim=True) for x in states.split(counts, dim=1)]


class SpeechUpstream(nn.Module):
    """S3PRL's interface: hidden states of 16 kHz waveforms, one step for each patch in time.

        upstream = SpeechUpstream("folder/encoder")
        upstream([torch.randn(16000), torch.randn(32000)])["hidden_states"]  # a list of [B, T, D]

    A wave that is longer than a window is cut into windows, each of which begins where the steps of
    the one before end; the last one ends with the wave. Of each window those steps count that its
    sound fills: what an encoder pads behind them is left out. Devices as of `AvSuperbUpstream`.

    Attributes:
        grid: how the tower's tokens lie in time. steps: of a window that its sound fills.
    """

    def __init__(
        self, ckpt: str | os.PathLike[str], model_config: None = None, refresh: bool = False
    ) -> None:
        """ckpt, model_config, refresh: as of `AvSuperbUpstream`.

        Raises:
            UserError: as of `AvSuperbUpstream`, or no encoder reads 16 kHz sound alone.
        """
        super().__init__()
        _no_config(model_config)
        encoders = avssl.load(ckpt)
        found = next(
            (
                encoders[name]
                for name in encoders.names
                if all(map(speech_recipe, encoders[name].fixed_inputs.values()))
            ),
            None,
        )
        if found is None:
            raise UserError(f"{ckpt} has no encoder that reads 16 kHz sound alone: S3PRL needs one")
        self.audio = LayeredEncoder(found)
        (recipe,) = found.fixed_inputs.values()
        self.grid = time_grid(found.tower, recipe)
        self.window = round(found.data.window * RATE)  # samples
        rows = 1 + (self.window - FRAME) // ROW
        self.steps = self.grid.held(min(rows, recipe.frames))
        self.eval()

    def get_downsample_rates(self, key: str) -> int:
        """Samples of one step; the same for every key."""
        return self.grid.length * ROW

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Features of waves, at least one.

        Args:
            wavs: 16 kHz, float in [-1, 1], [N] each, on any device.

        Returns:
            hidden_states, a list over layers of [B, T, D] padded with zeros, and
            last_hidden_state. A wave has as many steps as patches of its own length fit into it, at
            least one.

        Raises:
            UserError: a wave is not finite, or no waveform.
        """
        clips = [self._pieces(wave) for wave in wavs]
        counts = [count for _, count in clips]
        states = self.audio.in_time([pieces for pieces, _ in clips])  # of each, [L, W, T, D]
        whole = [
            _whole(x[:, :, : self.steps], count) for x, count in zip(states, counts, strict=True)
        ]
        hidden = _by_layer(whole)
        return {"hidden_states": hidden, "last_hidden_state": hidden[-1]}

    def _pieces(self, wave: Tensor) -> tuple[Tensor, int]:
        """A wave [N] as the encoder's input, window by window [W, 1, T, F], and the steps in it."""
        wave = _long_enough(wave, RATE)
        count = self.grid.held(1 + (len(wave) - FRAME) // ROW)
        last = max(0, count - self.steps)  # the step that the last window begins with
        pieces = []
        for start in [*range(0, last, self.steps), last]:
            part = wave[start * self.grid.length * ROW :][: self.window]
            # "middle": one window, also where rounding makes the part longer than it
            pieces.append(_prepared(self.audio.encoder, part, sample_rate=RATE, span="middle"))
        return torch.cat(pieces), count


def speech_recipe(recipe: FbankConfig | FramesConfig) -> bool:
    """Whether an input is made of the waves that S3PRL gives."""
    return isinstance(recipe, FbankConfig) and recipe.sample_rate == RATE


def _no_config(given: object) -> None:
    if given is not None:
        raise UserError(
            f"model_config={str(given)!r}: the encoder folder holds the configuration, leave it out"
        )


def _long_enough(wave: Tensor, rate: float) -> Tensor:
    """A wave [N] with silence behind it where it is shorter than one row of a filterbank."""
    missing = math.ceil(SHORTEST * rate) - len(wave)
    return F.pad(wave, (0, missing)) if missing > 0 else wave


def _reading(encoders: Encoders, *kinds: type) -> Encoder | None:
    """The encoder whose inputs are of exactly these kinds."""
    wanted = sorted(kind.__name__ for kind in kinds)
    for name in encoders.names:
        if sorted(type(item).__name__ for item in encoders[name].fixed_inputs.values()) == wanted:
            return encoders[name]
    return None


def _prepared(
    encoder: Encoder,
    clip: Tensor,
    *,
    sample_rate: int | None = None,
    fps: float | None = None,
    span: Span = "all",
) -> Tensor:
    """The windows of a clip as an encoder of one input takes them: [W, ...]."""
    (name,) = encoder.inputs
    _, windows = given_clips(
        [clip.cpu()], encoder.data, sample_rate=sample_rate, fps=fps, span=span
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
