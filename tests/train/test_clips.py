"""The clips of a run: what is held out is not trained on, and how files are told apart."""

import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.errors import UserError
from avssl.train.clips import Clips, open_clips
from avssl.train.parallel import World
from tests.speech.tones import write_manifest, write_tones


def opened(source: Path, folder: Path) -> Clips:
    config = DataConfig(
        source=str(source),
        window=0.2,
        batch=2,
        workers=0,
        cache=str(folder),
        inputs={"audio": FbankConfig(bins=32, frames=16)},
    )
    return open_clips(config, World(0, 1, torch.device("cpu"), "single"))


def test_single_pictures_read_as_videos_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for number in range(3):
            file = tmp_path / "clips" / split / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (80 * number, 0, 0)).save(file)

    def told(frames: int) -> str:
        config = DataConfig(
            source=str(tmp_path / "clips"),
            batch=2,
            workers=0,
            cache=str(tmp_path),
            inputs={"video": FramesConfig(frames=frames, size=32)},
        )
        open_clips(config, World(0, 1, torch.device("cpu"), "single"))
        lines = capsys.readouterr().err.splitlines()
        return "".join(line for line in lines if line.startswith("warning"))

    expected = "3 of 3 train clips are single pictures; 'video' reads 4 frames of each"
    assert told(4) == f"warning: {expected}, which are all the same"
    assert told(1) == ""


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_no_stretch_is_trained_on_and_held_out(held_out: str, tmp_path: Path) -> None:
    def of_two_sides(start: str) -> None:
        rows = [("a.wav", "", "0.4", "train"), ("b.wav", "", "", "train")]
        rows += [("a.wav", start, "", held_out), ("b.wav", "", "", "train")]
        keys = ("path", "start", "end", "split")
        source = write_manifest(tmp_path, [dict(zip(keys, row, strict=True)) for row in rows])
        opened(source, tmp_path)

    for name in "ab":
        write_tones(tmp_path / f"{name}.wav", "abba")
    of_two_sides("0.4")
    with pytest.raises(UserError, match=r"1 held-out clips in .* are also trained on .* a\.wav"):
        of_two_sides("0.39")


def test_sizes_tell_files_of_one_name_apart_and_follow_copies(tmp_path: Path) -> None:
    for folder, second in (("one", "abbaab"), ("copy", "abbaab"), ("swap", "abbaabba")):
        (tmp_path / folder / "train").mkdir(parents=True)
        write_tones(tmp_path / folder / "train" / "a.wav", "abba")
        write_tones(tmp_path / folder / "train" / "b.wav", second)
    one, copy, swap = (opened(tmp_path / name, tmp_path) for name in ("one", "copy", "swap"))
    assert one.fingerprint == swap.fingerprint  # with which a run goes on
    assert one.file_sizes == copy.file_sizes != swap.file_sizes
    files = sorted((tmp_path / "one" / "train").iterdir())
    assert one.file_sizes.startswith(f"{sum(file.stat().st_size for file in files):,} (")

    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w") as tar:
        for file in files:
            tar.add(file, f"train/{file.name}")
    assert one.file_sizes == opened(packed, tmp_path).file_sizes
