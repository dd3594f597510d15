"""A small trained model with the clips it was trained on, and an index of its test split."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from avssl.retrieval.build import index_clips
from avssl.train.run import train
from tests.train import tiny

CORPUS = "scenes-48"  # 32 train, 8 val, 8 test


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder."""
    base = tmp_path_factory.mktemp("retrieval")
    torch.set_num_threads(1)
    towers = "pictures: false, towers: {{audio: audio.pooled, video: video.pooled}}"
    text = tiny.MAVIL.replace("never read", f"corpus:{CORPUS}").replace("pictures: false", towers)
    few = ["stages.stage1.steps=1", "stages.stage2.steps=1", "train.device=cpu"]
    assert train(tiny.write(base, text), few) == 0
    return base / "run"


@pytest.fixture(scope="session")
def other(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same make with other weights: as the first stage left it."""
    folder = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(model, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["stages"]["stage2"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def clips(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus' folder of test clips, 8 of them; read only."""
    from avssl.data.corpora import ensure_corpus

    return ensure_corpus(CORPUS).parent / "clips" / "test"


@pytest.fixture(scope="session")
def scenes(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the test split; read only."""
    folder = tmp_path_factory.mktemp("index") / "scenes"
    index_clips(f"corpus:{CORPUS}", run=model, folder=folder, split="test", memory=10**9, workers=0)
    return folder
