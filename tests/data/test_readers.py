"""Frame accuracy and sync of the public path: scan, recorded reader, read.

Letters: K pictures, N samples.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avssl.data.manifest import Clip
from avssl.data.media import read_clip_sound, read_pictures
from avssl.data.pictures import READERS
from avssl.data.probe import probe_clip

NAMES = (
    "h264.mp4 h264.mkv hevc.mp4 vp9.webm mpeg4.avi mpeg1.mpg cut.mp4 vfr.mp4 vfr.mkv "
    "late.mp4 late.mkv early.mp4 early.mkv"
).split()
READS = 40


@pytest.fixture(scope="module")
def probed(numbered: Callable[[str], Any]) -> Callable[[str], tuple[Any, Clip]]:
    known: dict[str, tuple[Any, Clip]] = {}

    def get(name: str) -> tuple[Any, Clip]:
        if name not in known:
            file = numbered(name)
            known[name] = (file, probe_clip(file.path.parent, Clip(path=name)))
        return known[name]

    return get


def random_times(file: Any) -> np.ndarray:
    return np.random.default_rng(7).uniform(0, file.times[-1] + 0.03, READS)


@pytest.mark.parametrize("name", NAMES)
def test_no_wrong_picture_at_random_times(name: str, probed: Any, number_in: Any) -> None:
    file, clip = probed(name)
    assert clip.has_video and not clip.reason
    times = random_times(file)
    expected = [file.shown_at(time) for time in times]
    single = [number_in(read_pictures(file.path, clip, [time])[0]) for time in times]
    assert single == expected
    together = read_pictures(file.path, clip, times, short_side=160)  # [K, H, W, 3]
    assert [number_in(image) for image in together] == expected


@pytest.mark.parametrize("name", NAMES)
def test_recorded_facts(name: str, probed: Any) -> None:
    file, clip = probed(name)
    assert clip.frames == len(file.numbers)
    assert clip.duration == pytest.approx(
        file.times[-1] + 0.04, abs=0.17 if "vfr" in name else 1e-3
    )
    assert (clip.width, clip.height, clip.rotation) == (320, 208, 0)
    assert clip.has_audio == (file.click is not None)
    assert clip.reader in READERS


def test_decord_reads_what_it_reads_rightly(probed: Any) -> None:
    assert [probed(name)[1].reader for name in ("h264.mp4", "vp9.webm")] == ["decord"] * 2
    # decord gives wrong pictures for these
    wrong = ("mpeg4.avi", "mpeg1.mpg", "cut.mp4")
    assert all(probed(name)[1].reader != "decord" for name in wrong)


@pytest.mark.parametrize("name", [name for name in NAMES if "vfr" not in name])
def test_flash_and_click_coincide(name: str, probed: Any, flashes: Any) -> None:
    file, clip = probed(name)
    flash = file.times[file.numbers.index(50)]
    grid = np.arange(flash - 0.2, flash + 0.2, 0.002)
    lit = [flashes(image) for image in read_pictures(file.path, clip, grid)]
    sound = read_clip_sound(file.path, clip, start=0.0, seconds=3.0, sample_rate=16000)  # [N]
    click = np.flatnonzero(np.abs(sound) > 0.2)[0] / 16000
    # by the encoder's clock the click is this much after the flash (0 unless the picture is late)
    lag = file.click - flash
    assert lag == 0 or name.startswith("early")
    assert abs(click - grid[lit.index(True)] - lag) < 0.010


def test_late_sound_is_silence_in_front(probed: Any) -> None:
    file, clip = probed("late.mkv")
    assert clip.sound_offset == pytest.approx(0.62, abs=0.03)
    sound = read_clip_sound(file.path, clip, start=0.0, seconds=0.55, sample_rate=16000)
    assert sound.shape == (8800,) and not sound.any()


def test_any_stretch_of_sound_equals_the_whole(probed: Any) -> None:
    file, clip = probed("h264.mp4")  # 44.1 kHz stereo, so this goes through the resampler
    whole = read_clip_sound(file.path, clip, start=0.0, seconds=4.0, sample_rate=16000)
    for first, count in ((0, 100), (12345, 16000), (30001, 7), (60000, 4000)):
        part = read_clip_sound(
            file.path, clip, start=first / 16000, seconds=count / 16000, sample_rate=16000
        )
        np.testing.assert_allclose(part, whole[first : first + count], atol=2e-5)


def test_channels_are_averaged(probed: Any) -> None:
    file, clip = probed("mpeg4.avi")  # PCM: a click of 0.8 in the left channel alone
    sound = read_clip_sound(file.path, clip, start=0.0, seconds=4.0, sample_rate=44100)
    assert np.abs(sound).max() == pytest.approx(0.4, abs=0.01)


def test_long_sound_is_sought(tmp_path: Path, write_media: Any) -> None:
    for name, codec in (("long.mkv", "pcm_s16le"), ("long.mp4", "aac"), ("long.mp3", "libmp3lame")):
        write_media(tmp_path / name, video=None, audio=codec, seconds=16.0)
        clip = probe_clip(tmp_path, Clip(path=name))
        whole = read_clip_sound(tmp_path / name, clip, start=0, seconds=15.0, sample_rate=44100)
        part = read_clip_sound(tmp_path / name, clip, start=12.5, seconds=1.0, sample_rate=44100)
        slack = 45 if name == "long.mkv" else 0  # Matroska rounds times to 1 ms
        off = [
            np.abs(part - whole[551250 + lag : 595350 + lag]).max()
            for lag in range(-slack, slack + 1)
        ]
        assert min(off) < 1e-4, name
