"""Training in this process with random tensors in place of clips."""

from collections.abc import Callable
from pathlib import Path

import pytest

import avssl.train.clips
from avssl.train.run import train
from tests.train.tiny import TinyClips


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`run(path, *overrides)` trains an experiment file."""
    monkeypatch.setattr(avssl.train.clips, "open_clips", TinyClips)
    return lambda path, *overrides: train(Path(path), list(overrides))
