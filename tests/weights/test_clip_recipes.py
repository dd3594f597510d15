"""VideoMAE and MVD: their own names, and positions that differ, against transformers' VideoMAE.

Letters: B batch, T frames, H W height width.
"""

import itertools
from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from avssl.errors import UserError
from avssl.weights.foreign import read_foreign
from tests.weights.plain import (
    build,
    code_3d,
    layers,
    original_names,
    random_state,
    randomise,
    save,
    worst,
)

CLOSE = 1e-4
HEADS = 3
CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(2))  # [B, 3, T, H, W]


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
    places = itertools.product(range(2), repeat=3)  # time, row, column
    table = torch.tensor([[[code_3d(*place, k, 48) for k in range(48)] for place in places]])
    monkeypatch.setattr(videomae_model.embeddings, "position_embeddings", table)
    check_clip(path, "mvd", videomae_model, layout="mvd")
