"""An encoder as an upstream model of AV-SUPERB and S3PRL: expert.py, hubconf.py and the encoder.

Where an encoder reads sound, hubconf.py has a second entry for S3PRL. The code in the folder is a
few lines that import avssl; the classes are `avssl.export.upstream`'s.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path

import torch

from avssl.data.config import FbankConfig
from avssl.export import encoder_folder
from avssl.export.source import Source, difference
from avssl.export.states import time_grid
from avssl.export.upstream import RATE, AvSuperbUpstream, SpeechUpstream, speech_recipe

TOLERANCE = 1e-5
ENCODER = "encoder"

EXPERT = '''\
"""AV-SUPERB's upstream model for {title}; needs `pip install avssl`."""

from pathlib import Path

from avssl.export.upstream import AvSuperbUpstream


class UpstreamExpert(AvSuperbUpstream):
    """ckpt: a folder written by avssl's export; the one beside this file without.

    The benchmark passes model_config and refresh to every upstream; here the first must be None.
    """

    def __init__(self, ckpt=None, model_config=None, refresh=False):
        super().__init__(ckpt or Path(__file__).parent / "{encoder}", model_config, refresh)
'''
HUB = '''\
"""Entry points of torch.hub, AV-SUPERB and S3PRL for {title}."""

from pathlib import Path as _Path

from avssl.export import upstream as _upstream

dependencies = ["torch", "avssl"]
_FOLDER = _Path(__file__).parent / "{encoder}"


def {name}(ckpt=None, model_config=None, refresh=False):
    """For AV-SUPERB: sound and pictures. ckpt: another folder written by avssl's export."""
    return _upstream.AvSuperbUpstream(ckpt or _FOLDER, model_config, refresh)
'''
HUB_SPEECH = '''

def {name}_speech(ckpt=None, model_config=None, refresh=False):
    """For S3PRL: 16 kHz waveforms. ckpt: another folder written by avssl's export."""
    return _upstream.SpeechUpstream(ckpt or _FOLDER, model_config, refresh)
'''


def write(source: Source, folder: Path) -> None:
    """Write the folder; the S3PRL half is there where an encoder reads sound alone.

    Raises UserError when a tower does not cut its input into patches.
    """
    for tower, read in source.towers.items():
        time_grid(source.encoder.towers[tower], source.encoder.fixed_inputs[read])
    (folder / ENCODER).mkdir()
    encoder_folder.write(source, folder / ENCODER)
    name = entry_name(source)
    values = {
        "title": f"the encoder '{source.module}' of {source.encoders.name}",
        "encoder": ENCODER,
        "name": name,
    }
    texts = {"expert.py": EXPERT, "hubconf.py": HUB + (HUB_SPEECH if _speaks(source) else "")}
    for file, text in texts.items():
        (folder / file).write_text(text.format(**values), encoding="utf-8")


def entry_name(source: Source) -> str:
    """The name of the entry point in hubconf.py, such as mavil_audio_video."""
    name = re.sub(r"\W+", "_", f"{source.encoders.name}_{source.module}").strip("_").lower()
    return f"avssl_{name}" if not name or name[0].isdigit() else name


def _speaks(source: Source) -> bool:
    """Whether one of its towers can be an upstream of S3PRL."""
    return any(map(speech_recipe, source.encoder.fixed_inputs.values()))


def check(source: Source, folder: Path) -> float:
    """Largest difference between the encoder's features and those of both upstreams, of clips that
    are shorter than a window and of ones that have several."""
    worst = _clip_difference(source, folder)
    return max(worst, _speech_difference(source, folder)) if _speaks(source) else worst


def _clip_difference(source: Source, folder: Path) -> float:
    """Of AV-SUPERB's upstream, for a clip of several windows."""
    upstream = AvSuperbUpstream(folder / ENCODER)
    data = source.encoder.data
    random = torch.Generator().manual_seed(0)
    rate, fps = RATE, 8.0
    count = math.ceil(2.5 * data.window * fps)
    wave = torch.randn(int(count / fps * rate), generator=random) / 10
    pictures = torch.randint(256, (count, 3, 80, 96), generator=random, dtype=torch.uint8)
    pair = (upstream.preprocess_audio(wave, rate), upstream.preprocess_video(pictures, fps))
    given = {
        name: wave if isinstance(recipe, FbankConfig) else pictures.permute(0, 2, 3, 1)
        for name, recipe in source.encoder.fixed_inputs.items()
    }
    key = "fusion_feats"
    if len(given) == 1:
        key = "audio_feats" if upstream.audio is not None else "video_feats"
    with torch.no_grad():
        states = torch.cat(upstream([pair])[key])[:, 0]  # [L, D]
        layers = list(range(source.encoder.depth + 1))
        wanted = source.encoder(given, sample_rate=rate, fps=fps, layer=layers)[:, 0]  # [L, D]
        output = source.encoder(given, sample_rate=rate, fps=fps)  # [1, D]
    return max(difference(states[: len(layers)], wanted), difference(states[-1:], output))


def _speech_difference(source: Source, folder: Path) -> float:
    """Of S3PRL's upstream: its steps of a window against the encoder's tokens of that sound."""
    upstream = SpeechUpstream(folder / ENCODER)
    encoder = source.encoders[upstream.audio.encoder.name]
    layers = list(range(encoder.depth + 1))
    random = torch.Generator().manual_seed(0)
    worst = 0.0
    for share in (0.4, 1.0, 2.3):
        wave = torch.randn(round(share * upstream.window), generator=random) / 10
        with torch.no_grad():
            states = torch.cat(upstream([wave])["hidden_states"])  # [L, T, D]
            count = states.shape[1]
            steps = min(count, upstream.steps)
            own = count - (count - 1) // steps * steps  # of the last window, others have the rest
            begin = (count - steps) * upstream.get_downsample_rates("hidden_states")
            for part, first, found in (
                (wave, 0, states[:, :steps]),
                (wave[begin:], steps - own, states[:, -own:]),
            ):
                call = functools.partial(
                    encoder, part[: upstream.window], sample_rate=RATE, pool="none", span="middle"
                )
                tokens = torch.cat([*call(layer=layers), *(x[None] for x in call())])  # [L, N, D]
                wanted = upstream.grid.mean(tokens)[:, first:steps]  # [L, T, D], its output last
                found = torch.cat([found[: len(layers)], found[-1:]])
                worst = max(worst, difference(found, wanted))
    return worst
