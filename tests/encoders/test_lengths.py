"""Encoders of clips that keep their own length: alone or in a batch, files, arrays, extraction.

Letters: T frames, D width.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

import avssl
from avssl.data.batches import stack_inputs
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import read_pictures
from avssl.data.scan import folder_clips, scan_clips
from avssl.encoders.extract import Wanted, extract
from avssl.encoders.load import Encoders
from avssl.encoders.shards import read_shard, shard_paths
from avssl.errors import UserError
from avssl.eval.features import embed
from tests.data.conftest import write_media
from tests.encoders.tiny_raven import write_raven

RATE, FRAME = 16000, 640  # Hz, samples


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 12 stretches of one square clip, 12 to 34 frames long, and one of 50."""
    folder = tmp_path_factory.mktemp("talk")
    write_media(folder / "a.mp4", audio="aac", count=60, seconds=2.4, size=(64, 64))
    rows = [
        (n / 25, (n + 12 + 2 * n) / 25, split)
        for n, split in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3)
    ]
    rows.append((0.2, 2.2, "test"))
    (scanned,) = scan_clips(folder, folder_clips(folder, folder), workers=1)
    found = [
        dataclasses.replace(scanned, start=start, end=end, split=split)
        for start, end, split in rows
    ]
    Manifest(folder, found).write(folder / "manifest.csv")
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raven(tmp_path_factory.mktemp("raven"))


@pytest.fixture(scope="module")
def av(model: Path) -> Encoders:
    return avssl.load(model)


def noise(frames: float, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(round(frames * FRAME), generator=random) * 0.1


def test_a_batch_gives_what_each_clip_gives_alone(av: Encoders) -> None:
    """Padding changes nothing; pooled features are the mean over the real frames."""
    waves = [noise(frames, frames) for frames in (12, 25, 40)]
    together = av.audio(waves, sample_rate=RATE)
    tokens = av.audio(waves, sample_rate=RATE, pool="none")
    layers = av.audio(waves, sample_rate=RATE, layer=[0, 1, 2], pool="none")
    assert [len(x) for x in tokens] == [12, 25, 40]
    assert [x.shape[:2] for x in layers] == [(3, 12), (3, 25), (3, 40)]
    for row, wave in enumerate(waves):
        x = wave.view(1, -1, FRAME)
        with torch.no_grad():
            expected = av.audio.tower(x=x)
        torch.testing.assert_close(together[row], expected["pooled"][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(tokens[row], expected["tokens"][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(tokens[row].mean(0), together[row], atol=1e-5, rtol=1e-4)


def test_files_and_arrays_agree(av: Encoders, clips: Path, tmp_path: Path) -> None:
    wave = noise(30)
    soundfile.write(tmp_path / "a.wav", wave.numpy(), RATE, subtype="FLOAT")
    found = av.audio(tmp_path / "a.wav")
    torch.testing.assert_close(found[0], av.audio(wave, sample_rate=RATE)[0])
    pictures = torch.randint(0, 256, (30, 36, 36, 3), dtype=torch.uint8)
    assert len(av.video(pictures, fps=25, pool="none")[0]) == 30
    slower = av.video(pictures[::2], fps=12.5, pool="none")[0]  # each is shown for two frames
    twice = pictures[::2].repeat_interleave(2, dim=0)
    torch.testing.assert_close(slower, av.video(twice, fps=25, pool="none")[0])
    assert av.video(clips.parent / "a.mp4").shape == (1, av.video.width)
    assert av.video_audio(clips.parent / "a.mp4").shape == (1, av.video_audio.width)


def test_long_clips_are_cut_into_windows(av: Encoders) -> None:
    """Of 1.6 s, the last of which ends with the clip."""
    wave = noise(60)
    parts = [av.audio(wave[k * FRAME :][: 40 * FRAME], sample_rate=RATE)[0] for k in (0, 20)]
    whole = av.audio(wave, sample_rate=RATE)[0]
    torch.testing.assert_close(whole, torch.stack(parts).mean(0))
    assert len(av.audio(wave, sample_rate=RATE, pool="none")[0]) == 80
    middle = av.audio(wave, sample_rate=RATE, span="middle")[0]
    torch.testing.assert_close(middle, av.audio(wave[10 * FRAME : 50 * FRAME], sample_rate=RATE)[0])


def test_clips_that_cannot_serve_are_refused(av: Encoders, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.20 s long, and data\.lengths\.shortest"):
        av.audio(noise(5), sample_rate=RATE)
    wide = torch.zeros(20, 40, 60, 3, dtype=torch.uint8)
    with pytest.raises(UserError, match="60 x 40 pixels are no square mouth crops"):
        av.video(wide, fps=25)
    write_media(tmp_path / "wide.mp4", count=20, size=(96, 64))
    with pytest.raises(UserError, match=r"wide\.mp4: its picture of 96 x 64 is no mouth crop"):
        av.video(tmp_path / "wide.mp4")
    with pytest.raises(UserError, match=r"wide\.mp4: has no sound"):
        av.audio(tmp_path / "wide.mp4")
    with pytest.raises(UserError, match=r"reads 'audio' of the shape \[B, T, 640\]"):
        av.audio.encode({"audio": torch.zeros(1, 10, 320)})


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_extraction_gives_what_the_encoder_gives(
    av: Encoders, clips: Path, tmp_path: Path, pool: Any
) -> None:
    wanted = Wanted("video", None, pool, "all", "numpy", None, 5)
    found = extract(av, str(clips), tmp_path / "out", wanted, workers=0)
    assert found.written == 13 and not found.failures
    rows = Manifest.read(clips).clips
    for path in shard_paths(tmp_path / "out", "numpy"):
        shard = read_shard(path)
        ends = np.cumsum(shard.tokens["features"]) if pool == "none" else None
        for number, row in enumerate(shard.rows):
            assert row.start is not None and row.end is not None
            frames = round((row.end - row.start) * 25)
            x = shard.features["features"]
            if ends is not None:
                count = 80 if frames == 50 else frames  # two windows of 40
                assert shard.tokens["features"][number] == count
                x = x[ends[number] - count : ends[number]].mean(0, keepdims=True)
                number = 0
            expected = _stretch_features(av, clips.parent, rows[0], row.start, frames)
            np.testing.assert_allclose(x[number], expected, atol=1e-4)


def _stretch_features(
    av: Encoders, root: Path, clip: Clip, start: float, frames: int
) -> np.ndarray:
    """Mean of the windows of a stretch of a file, each read and encoded alone."""
    parts = []
    for first, count in [(0, frames)] if frames <= 40 else [(0, 40), (frames - 40, 40)]:
        times = start + (first + np.arange(count)) / 25
        pictures = read_pictures(root / clip.path, clip, times, short_side=36)
        parts.append(av.video(torch.from_numpy(pictures), fps=25)[0].numpy())
    return np.mean(parts, axis=0)


def test_probes_give_towers_the_real_frames(av: Encoders) -> None:
    """Pooled features of a padded batch are those of `encode`, not changed by padding."""
    raws = [{"audio": 9 * noise(count, count).view(-1, FRAME).numpy()} for count in (12, 40)]
    batch = stack_inputs(raws, av.audio.inputs)
    tower = av.audio.tower
    with torch.no_grad():
        expected, padded = av.audio.encode(batch), tower(x=batch["audio"])["pooled"]
    numbers = {"label": torch.zeros(2), "clip": torch.arange(2)}
    found = embed(
        nn.ModuleDict({"audio": tower}),
        {"audio": "audio.pooled"},
        [{**batch, **numbers}],
        device="cpu",
    )
    torch.testing.assert_close(found["audio"], expected, atol=1e-5, rtol=1e-4)
    assert (padded[0] - expected[0]).abs().max() > 1e-3
