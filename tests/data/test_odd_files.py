"""Files that break loaders, in one manifest: named, left out or read right, never the end of a run.

Letters: K pictures.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.container import MediaError
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import read_pictures
from avssl.data.pool import Failure, guarded_map
from avssl.data.prepare import check_data, prepare_manifest
from avssl.data.probe import probe_clip
from avssl.data.sound import read_sound

INPUTS = {"audio": FbankConfig(bins=16, frames=48), "video": FramesConfig(frames=2, size=64)}
CONFIG = DataConfig(window=0.5, batch=2, workers=0, inputs=INPUTS)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: Any, numbered: Any, write_media: Any, rotate_header: Any) -> Manifest:
    """A prepared manifest of good and bad files."""
    folder = tmp_path_factory.mktemp("odd")
    small = {"audio": "aac", "count": 30, "seconds": 1.2, "codec": {"g": "10"}}
    write_media(folder / "good.mp4", **small)
    write_media(folder / "-dash 100%.mp4", **small)
    write_media(folder / "silent.mp4", count=30)
    write_media(folder / "sound.flac", video=None, audio="flac", seconds=1.2)
    write_media(folder / "ten_bit.mp4", pixels="yuv420p10le", **small)
    for degrees in (90, 180, 270):
        rotate_header(folder / "good.mp4", folder / f"turned{degrees}.mp4", degrees)
    write_media(folder / "vfr.mp4", audio="aac", stamps=[k * k for k in range(40)], count=40)
    good = (folder / "good.mp4").read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "words.mp4").write_text("this is no video " * 100)
    faststart = {"movflags": "faststart"}
    write_media(folder / "cut_off.mp4", container=faststart, **small)
    whole = (folder / "cut_off.mp4").read_bytes()
    (folder / "cut_off.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "no_index.mp4").write_bytes(good[: len(good) // 2])
    soundfile.write(folder / "nothing.wav", np.zeros(0, np.float32), 16000)
    return prepare_manifest(folder, None, workers=1, limit=60)


def row(manifest: Manifest, path: str) -> Clip:
    return next(clip for clip in manifest.clips if clip.path == path)


def test_every_bad_file_is_named_with_a_reason(odd: Manifest) -> None:
    unusable = {clip.path for clip in odd.clips if not clip.has_video and not clip.has_audio}
    assert unusable == {"empty.mp4", "words.mp4", "no_index.mp4", "nothing.wav", "cut_off.mp4"}
    assert "empty" in row(odd, "empty.mp4").reason
    assert "no sample" in row(odd, "nothing.wav").reason
    assert all(clip.reason for clip in odd.clips if clip.path in unusable)
    assert "20 pictures of 30" in row(odd, "cut_off.mp4").reason
    whole = {"good.mp4", "-dash 100%.mp4", "silent.mp4", "ten_bit.mp4", "vfr.mp4", "sound.flac"}
    assert not any(row(odd, path).reason for path in whole)


def test_an_epoch_goes_through_and_the_rest_is_listed(odd: Manifest) -> None:
    clips = [replace(clip, split="train") for clip in odd.clips]
    dataset = ClipDataset(Manifest(odd.root, clips), CONFIG, training=False)
    left_out = dict(dataset.left_out)
    assert left_out["silent.mp4"] == "has no sound"
    assert left_out["sound.flac"] == "has no picture"
    assert {"empty.mp4", "words.mp4", "cut_off.mp4", "no_index.mp4"} < set(left_out)
    batches = list(make_eval_loader(dataset, CONFIG))
    assert sum(len(batch["clip"]) for batch in batches) == len(dataset) == 7
    assert not any(batch["failures"] for batch in batches)
    assert "left out" in dataset.describe() and "has no sound" in dataset.describe()


@pytest.mark.parametrize("stream", ["audio", "video"])
def test_one_stream_is_enough_where_only_one_is_read(odd: Manifest, stream: str) -> None:
    clips = [replace(clip, split="train") for clip in odd.clips]
    config = DataConfig(window=0.5, batch=2, workers=0, inputs={stream: INPUTS[stream]})
    dataset = ClipDataset(Manifest(odd.root, clips), config, training=False)
    served = {clip.path for clip in dataset.clips}
    assert ("silent.mp4" in served) == (stream == "video")
    assert ("sound.flac" in served) == (stream == "audio")
    for batch in make_eval_loader(dataset, config):
        assert stream in batch and not batch["failures"]


@pytest.mark.parametrize("reader", ["decord", "pyav", "pyav-linear"])
@pytest.mark.parametrize(("degrees", "corner"), [(90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_rotated_files_are_upright_in_every_reader(
    odd: Manifest, reader: str, degrees: int, corner: tuple[int, int]
) -> None:
    """The red upper left corner of the coded picture lands where a clockwise turn puts it."""
    path = f"turned{degrees}.mp4"
    clip = replace(row(odd, path), reader=reader)
    assert (clip.width, clip.height) == ((320, 208) if degrees == 180 else (208, 320))
    image = read_pictures(odd.root / path, clip, [0.1], short_side=104)[0]  # [H, W, 3]
    assert image.shape[:2] == ((104, 160) if degrees == 180 else (160, 104))
    red = (image[..., 0].astype(int) - image[..., 1] > 128).nonzero()
    sides = zip(red, image.shape[:2], strict=True)
    assert [int(axis.mean() > size / 2) for axis, size in sides] == [*corner]


def test_variable_rate_pictures_are_taken_by_time(odd: Manifest, number_in: Any) -> None:
    clip = row(odd, "vfr.mp4")
    times = np.arange(0, 1.5, 0.05)
    images = read_pictures(odd.root / "vfr.mp4", clip, times)  # [K, H, W, 3]
    expected = [int(np.sqrt(time * 1000 + 1e-3)) for time in times]
    assert [number_in(image) for image in images] == expected


def test_cover_art_is_no_picture(tmp_path: Path, write_media: Any, picture: Any) -> None:
    import av

    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("libmp3lame", rate=44100, layout="mono")
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        image = np.ascontiguousarray(picture(1)[:64, :64])
        out.mux(cover.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(cover.encode())
        noise = np.random.default_rng(0).standard_normal((1, 44100)).astype(np.float32) * 0.1
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(sound.encode(frame))
        out.mux(sound.encode())
    clip = probe_clip(tmp_path, Clip(path="song.mp3"))
    assert (clip.has_video, clip.has_audio, clip.reason) == (False, True, "")
    assert clip.duration == pytest.approx(1.0, abs=0.05)


def test_flipped_bytes_are_found(tmp_path: Path, odd: Manifest) -> None:
    data = bytearray((odd.root / "good.mp4").read_bytes())
    start = data.find(b"mdat") + 2000
    data[start : start + 3000] = np.random.default_rng(0).bytes(3000)
    (tmp_path / "flipped.mp4").write_bytes(data)
    assert probe_clip(tmp_path, Clip(path="flipped.mp4")).reason


def test_a_file_that_changed_is_an_error_not_a_wrong_picture(odd: Manifest, tmp_path: Path) -> None:
    clip = row(odd, "good.mp4")
    promised = replace(clip, frames=40)
    for reader in ("decord", "pyav", "pyav-linear"):
        with pytest.raises(MediaError, match="promises 40"):
            read_pictures(odd.root / "good.mp4", replace(promised, reader=reader), [1.19])


def test_an_empty_wav_cannot_be_read(odd: Manifest) -> None:
    with pytest.raises(MediaError, match="no sample"):
        read_sound(odd.root / "nothing.wav", start=0.0, seconds=1.0, sample_rate=16000)


def test_check_data_lists_each_bad_file(odd: Manifest, capsys: Any) -> None:
    assert check_data(odd.root / "manifest.csv", workers=1, limit=60) == 1
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in lines[:-1]} == {
        "empty.mp4", "words.mp4", "no_index.mp4", "nothing.wav", "cut_off.mp4",
    }  # fmt: skip
    assert lines[-1] == f"{len(odd.clips) - 5} of {len(odd.clips)} clips are good"


def test_check_data_is_content_with_good_files(tmp_path: Path, write_media: Any) -> None:
    write_media(tmp_path / "a.mp4", audio="aac", count=10, seconds=0.4)
    assert check_data(tmp_path, workers=1, limit=60) == 0


def misbehave(item: str) -> str:
    """In a helper process: crash, hang, raise, or answer."""
    if item == "crash":
        os.kill(os.getpid(), 11)
    if item == "hang":
        time.sleep(60)
    if item == "raise":
        raise ValueError("no good")
    return item


def test_a_scan_outlives_crashing_and_hanging_decoders() -> None:
    items = ["a", "crash", "b", "hang", "raise", "c"]
    results = dict(guarded_map(misbehave, items, workers=2, limit=2.0))
    assert [results[k] for k in (0, 2, 5)] == ["a", "b", "c"]
    reasons = [results[k].reason for k in (1, 3, 4) if isinstance(results[k], Failure)]
    assert len(reasons) == 3
    assert "SIGSEGV" in reasons[0] and "longer" in reasons[1] and "no good" in reasons[2]
