"""A run to evaluate, whose window is 1 s."""

from pathlib import Path

import pytest

from avssl.train.run import train
from tests.train import tiny


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose towers were hardly trained."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avssl.train.clips.open_clips", tiny.TinyClips)
        train(
            tiny.write(folder, tiny.MAVIL),
            ["train.device=cpu", "stages.stage1.steps=2", "stages.stage2.steps=1", "data.window=1"],
        )
    return folder / "run"
