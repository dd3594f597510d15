"""A tiny run with two towers and a fusion, and small folders of labelled tones and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from avssl.train.run import train
from tests.train import tiny

FILE = """\
name: tones
run: {run}
encoder: audio
in_memory: true
data: {{batch: 4, workers: 0}}
train: {{epochs: 2, lr: 1.0e-2, device: cpu, log_every: 4}}
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a tiny MAViL: towers audio and video, and their fusion."""
    path = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avssl.train.clips.open_clips", tiny.TinyClips)
        overrides = ["train.device=cpu", "stages.stage1.steps=2", "stages.stage2.steps=2"]
        train(tiny.write(path, tiny.MAVIL), [*overrides, "data.window=0.7"])
    return path / "run"


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 sounds of two classes, low and high, in three folds; as long as the model's window."""
    folder = tmp_path_factory.mktemp("tones")
    random, rows = np.random.default_rng(0), ["path,label,fold,split"]
    time = np.arange(11200) / 16000
    for number in range(24):
        high = number % 2
        sound = 0.3 * np.sin(2 * np.pi * (3000 if high else 200) * time * random.uniform(0.9, 1.1))
        sound += 0.01 * random.standard_normal(len(sound))
        soundfile.write(folder / f"{number:02d}.wav", sound.astype(np.float32), 16000)
        split = "test" if number < 8 else "train"
        rows.append(f"{number:02d}.wav,{'high' if high else 'low'},{1 + number // 8},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory, tones: Path) -> Path:
    """The same sounds beside dark and bright pictures."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(24):
        (folder / f"{number:02d}.wav").write_bytes((tones / f"{number:02d}.wav").read_bytes())
        with av.open(str(folder / f"{number:02d}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=10)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for shown in range(7):
                image = np.full((64, 64, 3), 200 * (number % 2) + 4 * shown, np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            out.mux(stream.encode())
    text = (tones / "manifest.csv").read_text().replace(".wav,", ".mp4,")
    (folder / "manifest.csv").write_text(text)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """`file("labels: multi", ...)` writes a fine-tuning file with more lines."""

    def write(*lines: str) -> Path:
        path = tmp_path / "tones.yaml"
        path.write_text(FILE.format(run=tmp_path / "result") + "".join(f"{x}\n" for x in lines))
        return path

    return write
