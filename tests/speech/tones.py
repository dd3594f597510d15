"""Speech for tests: a tone for each letter, so that a tiny recogniser learns it in seconds."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

RATE = 16000
TONES = {"a": 400, "b": 1500, " ": 4000}
TEXTS = ("ab", "ba", "a b", "aab", "b a", "bab", "bb", "aba")
TEST_TEXTS = ("baa", "b b", "abb")  # none that is trained on
CONFIGS = Path(__file__).parents[2] / "configs"


def write_tones(path: Path, text: str) -> None:
    """0.12 s for each letter, silence around."""
    time = np.arange(round(0.12 * RATE)) / RATE
    envelope = np.sin(np.pi * time / time[-1])
    letters = [0.3 * envelope * np.sin(2 * np.pi * TONES[letter] * time) for letter in text]
    silence = np.zeros(round(0.08 * RATE))
    soundfile.write(path, np.concatenate([silence, *letters, silence]).astype(np.float32), RATE)


def write_manifest(folder: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """manifest.csv of rows with the same keys."""
    path = folder / "manifest.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_clips(folder: Path) -> Path:
    """TEXTS in the train split, TEST_TEXTS in the test split."""
    folder.mkdir(parents=True)
    rows = []
    for number, text in enumerate(TEXTS):
        write_tones(folder / f"{number}.wav", text)
        rows.append({"path": f"{number}.wav", "text": text.upper(), "split": "train", "set": "a"})
    for number, text in enumerate(TEST_TEXTS):
        write_tones(folder / f"test{number}.wav", text)
        rows.append({"path": f"test{number}.wav", "text": text, "split": "test", "set": ""})
    return write_manifest(folder, rows)


def write_experiment(path: Path, source: Path, **changes: Any) -> Path:
    """An experiment: the encoder as it is for 4 steps, then everything for 80."""
    off = dict.fromkeys(["dropout", "attention_dropout", "decoder_dropout", "smoothing"], 0.0)
    rest = {"units": 5, "mask_window": 0, "ctc": 0.5, "layer_scale": 1.0}
    sizes = {"channels": 8, "features": 64, "width": 32, "depth": 1, "heads": 2, "hidden": 64}
    decoder = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "decoder_hidden": 64}
    graph = str(CONFIGS / "graphs" / "speech_audio.yaml")
    starts = {"init": "previous.audio", "head_init": "previous.head"}
    experiment = {
        "name": "tones",
        "run": str(path.parent / "run"),
        "args": {**off, **sizes, **decoder, **rest},
        "data": {
            "source": str(source),
            "cache": str(path.parent / "cache"),
            "lengths": {"budget": 200, "longest": 2.0, "shortest": 0.1, "buckets": 1},
            "workers": 0,
            "inputs": {"audio": {"type": "wave"}, "text": {"type": "text", "alphabet": "ab "}},
        },
        "train": {"lr": 1e-2, "warmup": 2, "clip": 5.0, "save_every": 10, "keep": 2},
        "probe": {"every": 0, "pictures": False, "final": False},
        "stages": {
            "frozen": {"graph": graph, "steps": 4, "args": {"freeze": True}},
            "all": {"graph": graph, "steps": 80, "args": starts},
        },
        "speech": {"average": 2, "splits": ["test"], "decode": {"beam": 3, "ctc_weight": 0.3}},
        **changes,
    }
    path.write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")
    return path
