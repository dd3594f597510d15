"""Sources, scans that are kept, prepared clips, and the tools' exit codes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from avssl.data import scan
from avssl.data.config import DataConfig
from avssl.data.manifest import Manifest
from avssl.data.media import read_clip_sound, read_pictures
from avssl.data.pool import Failure
from avssl.data.prepare import check_data, prepare_manifest
from avssl.data.source import open_source
from avssl.data.transcode import Target, prepare_clips
from avssl.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, write_media: Any) -> Path:
    """Two classes with one clip each, one with a wav beside it."""
    for name in ("cat/a.mp4", "dog/b.mp4"):
        (tmp_path / name).parent.mkdir()
        write_media(tmp_path / name, audio="aac", count=20, seconds=0.8)
    soundfile.write(tmp_path / "dog" / "b.wav", np.zeros(12800, np.float32), 16000)
    return tmp_path


def test_a_folder_is_scanned_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(source=str(folder), workers=0)
    first = open_source(config)
    assert [clip.path for clip in first.clips] == ["cat/a.mp4", "dog/b.mp4"]
    assert first.classes() == ["cat", "dog"]
    assert first.clips[1].wav == "dog/b.wav" and first.clips[0].wav == ""
    assert all(clip.has_video and clip.has_audio and clip.split for clip in first.clips)

    def probed(function: Any, items: Any, **_: Any) -> Any:
        assert not items, f"probed again: {items}"
        return iter(())

    with monkeypatch.context() as patch:
        patch.setattr(scan, "guarded_map", probed)
        assert open_source(config).clips == first.clips
    os.utime(folder / "cat" / "a.mp4", (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(scan, "guarded_map", probed)
        with pytest.raises(AssertionError, match="probed again"):
            open_source(config)


def test_only_takes_train_clips_by_a_column(tmp_path: Path) -> None:
    rows = ["a,train,pretrain,1", "b,train,trainval,1", "c,train,trainval,2", "d,test,test,1"]
    scanned = [f"{row},1,1" for row in rows]
    header = "path,split,set,part,has_video,has_audio"
    (tmp_path / "manifest.csv").write_text("\n".join([header, *scanned]) + "\n")

    def paths(only: dict[str, str | int] | None) -> str:
        config = DataConfig(source=str(tmp_path), only=only, workers=0)
        return "".join(clip.path for clip in open_source(config).clips)

    assert paths(None) == paths({}) == "abcd"
    assert paths({"set": "trainval"}) == "bcd"
    assert paths({"set": "trainval", "part": 2}) == "cd"
    with pytest.raises(UserError, match=r"column 'sets', which .* of your own in it: part, set$"):
        paths({"sets": "trainval"})
    with pytest.raises(UserError, match=r"set = 'test', which no .* there: pretrain, trainval$"):
        paths({"set": "test"})


def test_labels_come_from_a_column(tmp_path: Path) -> None:
    header = "path,label,split,motion,has_video,has_audio"
    rows = ["a,cat,train,left,1,0", "b,dog,train,,1,0", "c,cat,test, right ,1,0"]
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")

    def labels(column: str | None) -> list[str]:
        config = DataConfig(source=str(tmp_path), label=column, workers=0)
        return [clip.label for clip in open_source(config).clips]

    assert labels(None) == labels("label") == ["cat", "dog", "cat"]
    assert labels("motion") == ["left", "", "right"]
    with pytest.raises(UserError, match=r"asked of the column 'motions', .* not in .*: motion$"):
        labels("motions")
    with pytest.raises(UserError, match=r"'path', which is none of your own in .*: motion$"):
        labels("path")
    (tmp_path / "manifest.csv").write_text("path,label,has_video,has_audio\na,cat,1,0\n")
    with pytest.raises(UserError, match=r"'' *, but it must be one of your own, and .* have none:"):
        labels("")
    only = DataConfig(source=str(tmp_path), only={"label": "cat"}, workers=0)
    with pytest.raises(UserError, match=r"data\.only names the column 'label', but .* have none:"):
        open_source(only)


def test_manifests_of_several_folders_become_one_above_them(tmp_path: Path) -> None:
    for name, split in (("lrs3", "train"), ("vox2", "val")):
        (tmp_path / name).mkdir()
        line = f"x/a.mp4,x/a.wav,{split},{name},1,1"
        (tmp_path / name / "manifest.csv").write_text(
            f"path,wav,split,{name}_column,has_video,has_audio\n{line}\n"
        )
    both, out = [tmp_path / "lrs3", tmp_path / "vox2" / "manifest.csv"], tmp_path / "both.csv"
    prepare_manifest(both[0], out, also=both[1:], workers=1, limit=60)
    one, other = Manifest.read(out).clips
    assert (one.path, one.wav, one.split) == ("lrs3/x/a.mp4", "lrs3/x/a.wav", "train")
    assert (other.path, other.wav, other.split) == ("vox2/x/a.mp4", "vox2/x/a.wav", "val")
    assert other.extra == {"lrs3_column": "", "vox2_column": "vox2"}
    with pytest.raises(UserError, match=r"lrs3/x/a\.mp4 is in .*lrs3 and again in .*lrs3"):
        prepare_manifest(both[0], out, also=[*both[1:], both[0]], workers=1, limit=60)
    with pytest.raises(UserError, match=r"lrs3 does not lie below .*vox2"):
        prepare_manifest(both[0], both[1], also=both[1:], workers=1, limit=60)
    with pytest.raises(UserError, match="several sources need --out"):
        prepare_manifest(both[0], None, also=both[1:], workers=1, limit=60)


def test_a_name_that_is_not_utf8_is_a_reason(folder: Path, capsys: Any) -> None:
    odd = os.path.join(os.fsencode(folder), b"d\xffg")
    os.mkdir(odd)
    with open(os.path.join(odd, b"c.mp4"), "wb") as file:
        file.write((folder / "cat" / "a.mp4").read_bytes())
    for again in (False, True):
        prepare_manifest(folder, None, workers=1, limit=60, again=again)
        assert "d\\xffg/c.mp4: its name is not UTF-8: rename it\n" in capsys.readouterr().out
    listed = {clip.path: clip for clip in open_source(DataConfig(source=str(folder))).clips}
    clip = listed["d\\xffg/c.mp4"]
    assert not (clip.has_video or clip.has_audio) and clip.reason == scan.NOT_UTF8 and clip.split
    assert listed["cat/a.mp4"].has_video
    assert check_data(folder, workers=1, limit=60) == 1
    assert "d\\xffg/c.mp4: its name is not UTF-8" in capsys.readouterr().out
    (folder / "manifest.csv").unlink()
    assert open_source(DataConfig(source=str(folder))).clips == list(listed.values())


def test_what_took_too_long_is_scanned_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(source=str(folder), workers=0)
    slow = lambda function, items, **_: ((k, Failure("slow")) for k in range(len(items)))  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(scan, "guarded_map", slow)
        assert [clip.reason for clip in open_source(config).clips] == ["slow", "slow"]
    assert all(clip.has_video for clip in open_source(config).clips)


def test_scanning_again_forgets_a_wav_that_is_gone(folder: Path) -> None:
    settings: dict[str, Any] = {"workers": 1, "limit": 100.0}
    assert prepare_manifest(folder, None, **settings).clips[1].wav == "dog/b.wav"
    (folder / "dog" / "b.wav").unlink()
    clip = prepare_manifest(folder / "manifest.csv", None, **settings, again=True).clips[1]
    assert clip.wav == "" and clip.has_audio and not clip.reason


def test_a_users_manifest_is_completed(folder: Path) -> None:
    (folder / "labels.csv").write_text(
        "path,label,start,end,fold\ncat/a.mp4,x,0,0.3,1\ncat/a.mp4,y,0.3,0.8,2\nnone.mp4,z,,,3\n"
    )
    manifest = open_source(DataConfig(source=str(folder / "labels.csv"), workers=0))
    assert [clip.end for clip in manifest.clips] == [0.3, 0.8, None]
    assert [clip.has_video for clip in manifest.clips] == [True, True, False]
    assert "No such file" in manifest.clips[2].reason
    assert [clip.extra["fold"] for clip in manifest.clips] == ["1", "2", "3"]
    prepare_manifest(folder / "labels.csv", folder / "full.csv", workers=1, limit=60)
    assert Manifest.read(folder / "full.csv").clips == manifest.clips
    with pytest.raises(UserError, match="another folder"):
        prepare_manifest(folder / "labels.csv", folder / "cat" / "x.csv", workers=1, limit=60)


def test_an_unknown_source_is_explained() -> None:
    with pytest.raises(UserError, match="neither a folder nor a manifest"):
        open_source(DataConfig(source="no/such/place", workers=0))


def test_prepared_clips(
    numbered: Any, tmp_path: Path, number_in: Any, flashes: Any, write_media: Any, capsys: Any
) -> None:
    raw, target = tmp_path / "raw", tmp_path / "prepared"
    (raw / "deep" / "er").mkdir(parents=True)
    (raw / "deep" / "er" / "late.mkv").write_bytes(numbered("late.mkv").path.read_bytes())
    (raw / "odd.mp4").write_text("no video")
    settings = Target(short_side=128)
    assert prepare_clips(raw, target, settings, workers=1, limit=100) == 1
    assert "odd.mp4: damaged" in capsys.readouterr().out
    manifest = Manifest.read(target / "manifest.csv")
    (clip,) = manifest.clips
    path = target / clip.path
    assert (clip.path, clip.wav) == ("deep/er/late.mp4", "deep/er/late.wav")
    assert (clip.width, clip.height, clip.frames) == (196, 128, 100)
    with av.open(str(path)) as container:
        assert not container.streams.audio
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [k for k, packet in enumerate(packets) if packet.is_keyframe] == [0, 25, 50, 75]
        assert all(packet.pts == packet.dts for packet in packets)  # no B-frames
    assert soundfile.info(target / clip.wav).samplerate == 16000
    # in step as before: the flash, and the click of the sound that starts late
    times = np.arange(1.9, 2.1, 0.004)
    lit = [flashes(image) for image in read_pictures(path, clip, times)]
    sound = read_clip_sound(target / clip.wav, clip, start=0, seconds=3, sample_rate=16000)
    click = np.flatnonzero(np.abs(sound) > 0.2)[0] / 16000
    assert abs(times[lit.index(True)] - click) < 0.010
    assert [number_in(image) for image in read_pictures(path, clip, [0.5, 3.9])] == [12, 97]
    # again: nothing is made anew; with other settings: refused
    made = path.stat().st_mtime_ns
    prepare_clips(raw, target, settings, workers=1, limit=100)
    assert path.stat().st_mtime_ns == made
    assert "1 of 2 files are prepared already" in capsys.readouterr().out
    with pytest.raises(UserError, match="name another folder"):
        prepare_clips(raw, target, dataclasses.replace(settings, fps=25.0), workers=1, limit=9)
    (target / ".prepared.json").write_text("{")
    with pytest.raises(UserError, match="is damaged: remove"):
        prepare_clips(raw, target, settings, workers=1, limit=9)


def test_prepared_clips_at_another_rate(numbered: Any, tmp_path: Path, number_in: Any) -> None:
    (tmp_path / "raw").mkdir()
    file = numbered("vfr.mkv")
    (tmp_path / "raw" / "vfr.mkv").write_bytes(file.path.read_bytes())
    target = tmp_path / "prepared"
    assert prepare_clips(tmp_path / "raw", target, Target(fps=50.0), workers=1, limit=100) == 0
    (clip,) = Manifest.read(target / "manifest.csv").clips
    assert clip.fps == pytest.approx(50)
    times = np.random.default_rng(0).uniform(0, file.times[-1], 20)
    shown = [number_in(image) for image in read_pictures(target / clip.path, clip, times)]
    assert shown == [file.shown_at(np.floor(time * 50) / 50) for time in times]


@pytest.mark.parametrize("tool", ["check_data.py", "prepare_manifest.py"])
def test_wrong_use_is_exit_code_2(tool: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, tmp_path / "none"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: cannot read the manifest") and "Traceback" not in done.stderr
    )
