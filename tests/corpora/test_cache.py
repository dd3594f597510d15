"""The cache of a built-in corpus: rendered once, whole, resumable, shared by processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from avssl.data.corpora import cache as corpus_cache
from avssl.data.corpora import ensure_corpus
from avssl.data.corpora.files import decode_sound
from avssl.data.corpora.scenes.scene import FPS, FRAMES
from avssl.data.manifest import Manifest
from avssl.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "tools" / "render_corpus.py")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of a corpus of 24 clips."""
    return ensure_corpus("scenes-24", tmp_path_factory.mktemp("cache"))


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_clips(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.partial/clips/*/*.wav"))) < count:
        assert time.monotonic() < deadline, "no clip appeared"
        time.sleep(0.02)


def test_the_manifest_lists_balanced_splits(corpus: Path) -> None:
    manifest = Manifest.read(corpus)
    splits = [clip.split for clip in manifest.clips]
    assert {name: splits.count(name) for name in set(splits)} == {"train": 8, "val": 8, "test": 8}
    assert len(manifest.classes()) == 8
    assert all(
        clip.scanned and clip.text and float(clip.extra["pitch"]) > 0 for clip in manifest.clips
    )
    assert len({clip.path for clip in manifest.clips}) == 24


def test_full_size_splits() -> None:
    assert corpus_cache.find_corpus("scenes")[1] == {"train": 2000, "val": 200, "test": 400}
    assert corpus_cache.find_corpus("talking")[1] == {"train": 2000, "val": 200, "test": 200}


def test_files_decode_with_decord(corpus: Path) -> None:
    decord = pytest.importorskip("decord")
    manifest = Manifest.read(corpus)
    for clip in manifest.clips[:8]:
        reader = decord.VideoReader(str(manifest.file(clip)), num_threads=1)
        assert len(reader) == clip.frames == FRAMES
        assert reader.get_avg_fps() == clip.fps == FPS
        assert reader[FRAMES - 1].shape == (clip.height, clip.width, 3) == (96, 96, 3)


def test_the_wav_is_the_track(corpus: Path) -> None:
    """Sample by sample what the container holds, so that either source gives the same features."""
    import soundfile

    manifest = Manifest.read(corpus)
    for clip in manifest.clips[:8]:
        wav, rate = soundfile.read(manifest.sound_file(clip), dtype="float32")
        track = decode_sound(manifest.file(clip))
        assert rate == 16000 and wav.shape == track.shape
        assert np.abs(wav - track).max() < 1e-4


def test_asking_again_renders_nothing(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.parent.rglob("*")}
    assert ensure_corpus("scenes-24", corpus.parents[1]) == corpus
    assert before == {path: path.stat().st_mtime_ns for path in corpus.parent.rglob("*")}


def test_the_same_clips_on_every_machine(corpus: Path, tmp_path: Path) -> None:
    """However many processes render, a clip's sound is the same."""
    other = ensure_corpus("scenes-24", tmp_path, workers=1)
    one, two = Manifest.read(corpus), Manifest.read(other)
    for a, b in zip(one.clips, two.clips, strict=True):
        assert one.sound_file(a).read_bytes() == two.sound_file(b).read_bytes()


def test_a_killed_render_goes_on(tmp_path: Path) -> None:
    process = start("scenes-32", "--cache", str(tmp_path), "--workers", "1")
    wait_for_clips(tmp_path, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("*/manifest.csv"))
    time.sleep(0.5)  # the render process notices that its parent is gone
    left = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.partial/clips/*/*.wav")}
    assert 3 <= len(left) < 32
    manifest = ensure_corpus("scenes-32", tmp_path, workers=1)
    assert len(list(manifest.parent.rglob("*.wav"))) == 32
    partial = f"{manifest.parent.name}.partial"
    for path, stamp in left.items():
        done = Path(str(path).replace(partial, manifest.parent.name))
        assert done.stat().st_mtime_ns == stamp, "a finished clip was rendered again"
    assert not list(tmp_path.rglob("*.part.*")) and not (tmp_path / partial).exists()


def test_two_processes_render_once(tmp_path: Path) -> None:
    processes = [start("scenes-24", "--cache", str(tmp_path), "--workers", "1") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum("24/24 clips" in errors for _, errors in outputs) == 1
    assert sum("waiting for another process" in errors for _, errors in outputs) <= 1


def test_the_cache_variable_is_honoured(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSSL_CACHE", str(corpus.parents[1]))
    assert ensure_corpus("scenes-24") == corpus


@pytest.mark.parametrize("name", ["scene", "scenes-", "scenes-8", "music"])
def test_unknown_names_are_user_errors(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scenes|small"):
        ensure_corpus(name, tmp_path)


def test_a_full_disk_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        corpus_cache.shutil, "disk_usage", lambda _: usage._replace(free=10_000_000)
    )
    with pytest.raises(UserError, match=r"needs 416 MB.*10 MB are free.*AVSSL_CACHE"):
        ensure_corpus("scenes", tmp_path)


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="AVSSL_CACHE"):
        ensure_corpus("scenes-24", tmp_path / "file")


def test_the_disk_fills_up_while_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot write ends the render with a sentence; the next try goes on."""
    folder = tmp_path / f"scenes-24-v{corpus_cache.CORPORA['scenes'].version}-seed0.partial"
    (folder / "clips").mkdir(parents=True)
    (folder / "clips" / "val").write_text("in the way")
    with pytest.raises(UserError, match="cannot render corpus 'scenes-24'"):
        ensure_corpus("scenes-24", tmp_path, workers=1)
    (folder / "clips" / "val").unlink()
    assert ensure_corpus("scenes-24", tmp_path, workers=1).exists()
