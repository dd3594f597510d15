"""A small recogniser of tones, trained by an experiment file."""

from pathlib import Path

import pytest

from avssl.speech.job import finetune
from tests.speech.tones import write_clips, write_experiment


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment file whose run is finished."""
    folder = tmp_path_factory.mktemp("finetune")
    path = write_experiment(folder / "tones.yaml", write_clips(folder / "clips"))
    assert finetune(path) == 0
    return path


@pytest.fixture
def run(experiment: Path) -> Path:
    return experiment.parent / "run"
