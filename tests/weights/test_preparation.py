"""Sound and pictures are prepared as the foreign projects prepare theirs.

Letters: B batch, N samples, T frames, F mel bins.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi
from transformers import ASTFeatureExtractor

from avssl.data.config import FbankConfig, FramesConfig
from avssl.data.features import fbank, fit_frames, normalize
from avssl.encoders.model import read_encoder_file
from avssl.weights.foreign import CONFIGS

RATE = 16000
TIME = torch.arange(10 * RATE) / RATE
# a chirp with hiss, 10 s
SOUND = 0.3 * torch.sin(6.28 * (200 + 150 * TIME) * TIME) + 0.01 * torch.randn(
    len(TIME), generator=torch.Generator().manual_seed(0)
)


def ours(layout: str) -> Tensor:
    """What the layout's encoder file makes of the sound: [T, F]."""
    file, _ = read_encoder_file(CONFIGS / "encoders" / f"{layout}.yaml")
    recipe = file.data.inputs["audio"]
    assert isinstance(recipe, FbankConfig)
    features = fbank(SOUND[None], sample_rate=recipe.sample_rate, bins=recipe.bins)
    return normalize(fit_frames(features, recipe.frames), mean=recipe.mean, std=recipe.std)[0]


def test_ast_hears_what_its_feature_extractor_makes() -> None:
    theirs = ASTFeatureExtractor()(SOUND.numpy(), sampling_rate=RATE, return_tensors="np")
    difference = np.abs(ours("hf_ast").numpy() - theirs["input_values"][0])
    assert difference.max() < 1e-3


@pytest.mark.parametrize(
    ("layout", "mean", "divisor"),
    [
        ("cavmae", -5.081, 4.4849),
        ("audiomae", -4.2677393, 2 * 4.5689974),
        ("mavil_avsuperb", -4.2677393, 2 * 4.5689974),
    ],
)
def test_spectrograms_are_divided_as_the_project_divides(
    layout: str, mean: float, divisor: float
) -> None:
    theirs = kaldi.fbank(
        (SOUND - SOUND.mean())[None],
        htk_compat=True,
        sample_frequency=RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )  # [998, 128]
    theirs = torch.nn.functional.pad(theirs, (0, 0, 0, 1024 - len(theirs)))
    torch.testing.assert_close(ours(layout), (theirs - mean) / divisor, rtol=0, atol=1e-3)


@pytest.mark.parametrize("layout", ["mae", "mocov3", "timm_vit", "hf_vit", "hf_vitmae", "cavmae"])
def test_a_picture_is_one_frame_from_the_middle_of_the_window(layout: str) -> None:
    file, _ = read_encoder_file(CONFIGS / "encoders" / f"{layout}.yaml")
    recipe = file.data.inputs["video"]
    assert isinstance(recipe, FramesConfig) and recipe.seconds is not None
    assert recipe.frames == 1 and recipe.seconds < 0.05 < file.data.window
