"""A small trained MAViL and some clips to encode."""

from pathlib import Path

import pytest

import avssl
from avssl.encoders.load import Encoders
from avssl.train.run import train
from tests.data.conftest import write_media
from tests.train import tiny


@pytest.fixture(scope="session")
def mavil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with both stages, some steps each; a window is 0.64 s."""
    path = tmp_path_factory.mktemp("mavil")
    text = tiny.MAVIL.replace("batch: 8", "batch: 8\n  window: 0.64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avssl.train.clips.open_clips", tiny.TinyClips)
        overrides = ["train.device=cpu", "stages.stage1.steps=2", "stages.stage2.steps=1"]
        train(tiny.write(path, text), overrides)
    return path / "run"


@pytest.fixture
def av(mavil: Path) -> Encoders:
    """The encoders of its last stage."""
    return avssl.load(mavil)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 6 clips of sound and picture in two classes, one text that calls itself mp4,
    and a clip without sound."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(6):
        name = folder / ("even" if number % 2 == 0 else "odd") / f"{number}.mp4"
        name.parent.mkdir(exist_ok=True)
        write_media(name, audio="aac", count=10 + 10 * number)
    (folder / "even" / "text.mp4").write_text("no film")
    write_media(folder / "odd" / "silent.mp4", count=20)
    return folder
