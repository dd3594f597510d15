"""Tar shards: samples found, read at random, exact on resume, and every fault named."""

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.container import MediaError
from avssl.data.dataset import ClipDataset
from avssl.data.labels import read_labels
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import read_clip_sound, read_pictures
from avssl.data.prepare import check_clip, prepare_manifest
from avssl.data.probe import probe_clip
from avssl.data.scan import listed_clips
from avssl.data.shards import media_source, shard_files
from avssl.data.source import open_source
from avssl.errors import UserError
from tests.data.steps import assert_equal, batches


def png(level: int, size: tuple[int, int] = (48, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, format="PNG")
    return file.getvalue()


def shard(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, options.pop("mode", "w"), **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of four grey pictures each, of two classes."""
    for number in range(3):
        members: dict[str, bytes] = {}
        for k in range(4):
            at = 4 * number + k
            members[f"{at:04d}.cls"] = str(at % 2).encode()
            members[f"{at:04d}.png"] = png(20 * at)
        shard(tmp_path / "data" / f"part-{number:03d}.tar", members)
    return tmp_path / "data"


def config(source: object, **changes: Any) -> DataConfig:
    inputs = {"image": FramesConfig(frames=1, size=32, mean=[0, 0, 0], std=[1, 1, 1])}
    given = {"batch": 4, "workers": 0, "inputs": inputs, "source": str(source), **changes}
    cache = Path(str(source).split("{")[0]).parent / "cache"
    return DataConfig(cache=str(cache), **given)


def level(x: torch.Tensor) -> list[int]:
    return (255 * x.flatten(1).mean(1)).round().int().tolist()


@pytest.mark.parametrize("source", ["part-{000..002}.tar", "", "part-00{0..2}.tar"])
def test_a_range_and_a_folder_of_shards_give_the_same_clips(folder: Path, source: str) -> None:
    manifest = open_source(config(folder / source if source else folder))
    assert manifest.root == folder
    assert [clip.path for clip in manifest.clips][:5] == [
        "part-000.tar/0000.png", "part-000.tar/0001.png", "part-000.tar/0002.png",
        "part-000.tar/0003.png", "part-001.tar/0004.png",
    ]  # fmt: skip
    assert manifest.classes() == ["0", "1"] and len(manifest.clips) == 12
    dataset = ClipDataset(manifest, config(folder), split=None, training=True)
    for batch in batches(dataset, 0, 6):
        assert level(batch["image"]) == [20 * row for row in batch["clip"]]
        assert batch["label"].tolist() == [row % 2 for row in batch["clip"]]


def test_shuffling_and_resume_are_those_of_files(folder: Path) -> None:
    dataset = ClipDataset(open_source(config(folder)), config(folder), split=None, training=True)
    whole = batches(dataset, 0, 6)
    assert_equal(batches(dataset, 4, 6), whole[4:])
    epochs = [torch.cat([b["clip"] for b in whole[k : k + 3]]).tolist() for k in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12)) and epochs[0] != epochs[1]
    assert_equal(batches(dataset, 0, 3, workers=2), whole[:3])


def test_texts_of_a_sample(tmp_path: Path) -> None:
    table = {"label": "dog", "text": "a dog", "split": "val", "set": 7, "width": 3, "deep": {}}
    shard(
        tmp_path / "a.tar",
        {
            "x/one.json": json.dumps(table).encode(), "x/one.jpg": png(9),
            "./two.cls": b"cat\n", "./two.JPG": png(9), "two.txt": b"a cat ",
            "two.json": b'{"split": "train"}', "LICENSE": b"free", "three.seg.png": png(1),
            "three.png": png(9), "three.json": b'{"split": "test"}',
        },
    )  # fmt: skip
    one, two, three = listed_clips(tmp_path / "a.tar").clips
    assert (one.path, one.label, one.text, one.split) == ("a.tar/x/one.jpg", "dog", "a dog", "val")
    assert one.extra == {"set": "7"} and one.width is None
    assert (two.path, two.label, two.text, two.split) == ("a.tar/two.jpg", "cat", "a cat", "train")
    assert (three.path, three.split) == ("a.tar/three.png", "test")


def test_folders_name_splits_of_shards(tmp_path: Path) -> None:
    shard(tmp_path / "train" / "0.tar", {"a.png": png(1), "a.cls": b"cat"})
    shard(tmp_path / "val" / "0.tar", {"a.png": png(1), "a.cls": b"cat"})
    found = [(clip.path, clip.split, clip.label) for clip in listed_clips(tmp_path).clips]
    assert found == [("train/0.tar/a.png", "train", "cat"), ("val/0.tar/a.png", "val", "cat")]


@pytest.mark.parametrize("source", ["", "s-{000..002}.tar"])
def test_a_damaged_shard_leaves_the_splits_of_the_others(source: str, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        told = json.dumps({"split": split}).encode()
        shard(tmp_path / f"s-00{number}.tar", {"a.png": png(1), "a.json": told})
    (tmp_path / "s-002.tar").write_bytes(b"no tar" * 100)
    clips = listed_clips(tmp_path / source).with_splits().clips
    assert [clip.split for clip in clips] == ["train", "test", "train"]
    assert clips[2].reason.startswith("damaged or no plain tar")


def test_compressed_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "s-000.tar.gz").touch()
    with pytest.raises(UserError, match=r"s-000\.tar\.gz: shards must not be compressed"):
        listed_clips(tmp_path)
    shard(tmp_path / "s-001.tar", {"a.png": png(1), "a.json": b'{"split": "val"}'})
    one, packed = listed_clips(tmp_path).with_splits().clips
    assert (one.path, packed.path) == ("s-001.tar/a.png", "s-000.tar.gz")
    assert packed.scanned and not packed.has_video and "compressed" in packed.reason
    (tmp_path / "s-001.tar").rename(tmp_path / "a.mp4")
    assert [clip.path for clip in listed_clips(tmp_path).clips] == ["a.mp4"]


NAMES = ("h264.mp4", "h264.mkv", "mpeg4.avi", "late.mp4", "vfr.mp4")


@pytest.mark.parametrize("name", NAMES)
def test_clips_in_a_shard_are_read_as_files_are(
    tmp_path: Path, numbered: Callable[[str], Any], number_in: Any, name: str
) -> None:
    file = numbered(name)
    content = file.path.read_bytes()
    shard(tmp_path / "a.tar", {"other.cls": b"1", f"deep/{name}": content, "last.png": png(0)})
    row = next(clip for clip in listed_clips(tmp_path / "a.tar").clips if "deep" in clip.path)
    inside = probe_clip(tmp_path, row)
    alone = probe_clip(file.path.parent, Clip(path=file.path.name))
    place = {"path": row.path, "tar_offset": row.tar_offset, "tar_bytes": len(content)}
    assert inside == dataclasses.replace(alone, **place)
    times = np.random.default_rng(3).uniform(0, file.times[-1], 20)
    found = read_pictures(tmp_path / row.path, inside, times, short_side=104)
    np.testing.assert_array_equal(found, read_pictures(file.path, alone, times, short_side=104))
    assert [number_in(x) for x in found] == [file.shown_at(time) for time in times]
    if alone.has_audio:
        given = {"start": 0.4, "seconds": 2.0, "sample_rate": 16000}
        np.testing.assert_array_equal(
            read_clip_sound(tmp_path / row.path, inside, **given),
            read_clip_sound(file.path, alone, **given),
        )


def test_sounds_in_a_shard(tmp_path: Path) -> None:
    wave = np.sin(np.arange(16000) / 20).astype(np.float32) * 0.5
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, wave, 16000)
    members = {
        "one.wav": (tmp_path / "a.wav").read_bytes(),
        "two.flac": (tmp_path / "a.flac").read_bytes(),
    }
    shard(tmp_path / "data" / "a.tar", members)
    data = config(tmp_path / "data", window=1.0, inputs={"audio": FbankConfig(frames=98, bins=16)})
    dataset = ClipDataset(open_source(data), data, split=None, training=False)
    assert len(dataset) == 2
    for index in range(2):
        assert np.abs(dataset[0, index].inputs["audio"] - wave).max() < 1e-3


def test_bad_samples_and_shards_are_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    members = {
        "a.png": png(1), "a.jpg": png(1), "b.cls": b"1", "c.png": b"no picture",
        "d.png": png(1), "d.json": b"{", "e.png": png(1), "e.json": b'{"split": "dev"}',
        "f.png": b"",
    }  # fmt: skip
    shard(folder / "bad.tar", members)
    cut = (folder / "part-002.tar").read_bytes()
    (folder / "part-002.tar").write_bytes(cut[: len(cut) // 2])
    (folder / "part-003.tar").write_bytes(b"no tar at all" * 100)
    shard(folder / "zipped.tar", {"z.png": png(1)}, mode="w:gz")
    manifest = open_source(config(folder))
    reasons = {clip.path: clip.reason for clip in manifest.clips if clip.reason}
    assert "several media files (png, jpg): keep one" in reasons["bad.tar/a.png"]
    assert reasons["bad.tar/b.cls"] == "its sample holds no media file"
    assert "damaged or not a picture" in reasons["bad.tar/c.png"]
    assert reasons["bad.tar/d.png"].startswith("its sample has texts that cannot be read (")
    assert "split 'dev' is none of train, val, test" in reasons["bad.tar/e.png"]
    assert reasons["bad.tar/f.png"] == "the file is empty"
    for name in ("part-002.tar", "part-003.tar", "zipped.tar"):
        assert reasons[name].startswith("damaged or no plain tar (")
    data = config(folder)
    dataset = ClipDataset(manifest, data, split=None, training=True)
    kept = [clip.path for clip in dataset.clips]
    assert kept[:8] == [f"part-00{n // 4}.tar/{n:04d}.png" for n in range(8)]
    assert all(path.startswith("part-002.tar/") for path in kept[8:]) and len(kept) < 12
    again = prepare_manifest(folder, None, workers=1, limit=60, again=True)
    assert {clip.path: clip.reason for clip in again.clips if clip.reason} == reasons
    for clip in again.clips:
        assert bool(check_clip(str(folder), clip)) == (clip.path in reasons)


def test_a_shard_that_changes_later_is_named_and_its_clips_replaced(folder: Path) -> None:
    manifest = open_source(config(folder))
    dataset = ClipDataset(manifest, config(folder), split=None)
    shard(folder / "part-000.tar", {"0000.txt": b"longer than before", "0000.png": png(99)})
    sample = dataset[0, 2]
    assert sample.replaced and sample.clip != 2
    assert sample.failures[0] == ("part-000.tar/0002.png", "its shard has changed: scan again")
    (folder / "part-000.tar").unlink()
    with pytest.raises(MediaError, match="its shard cannot be read"):
        media_source(folder / "part-000.tar/0002.png", dataclasses.replace(manifest.clips[2]))
    # a scan looks again, for the file has another size and time
    shard(folder / "part-000.tar", {"0000.txt": b"longer than before", "0000.png": png(99)})
    assert [c.path for c in open_source(config(folder)).clips][:2] == [
        "part-000.tar/0000.png", "part-001.tar/0004.png",
    ]  # fmt: skip


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_any_kind(tmp_path: Path, format: int) -> None:
    long = "d" * 80 + "/" + "n" * 90 + ".png"
    members = {long: png(50), "../../etc/x.png": png(60)}
    if format == tarfile.PAX_FORMAT:
        members["übung.png"] = png(70)
    shard(tmp_path / "a.tar", members, format=format)
    manifest = Manifest(tmp_path, listed_clips(tmp_path / "a.tar").clips)
    paths = [clip.path for clip in manifest.clips]
    assert paths == [f"a.tar/{long}", "a.tar/etc/x.png", "a.tar/übung.png"][: len(members)]
    for clip, grey in zip(manifest.clips, (50, 60, 70)[: len(members)], strict=True):
        scanned = probe_clip(tmp_path, clip)
        assert scanned.reason == ""
        found = read_pictures(manifest.file(scanned), scanned, [0.0])
        assert (found == grey).all()


def test_a_manifest_of_shards_comes_back(folder: Path) -> None:
    made = prepare_manifest(folder / "part-{000..001}.tar", None, workers=1, limit=60)
    back = open_source(config(folder))
    assert back.clips == made.clips and len(back.clips) == 8
    assert all(clip.tar_offset for clip in back.clips)
    sample = ClipDataset(back, config(folder), split=None, training=False)[0, 5]
    assert (sample.inputs["image"] == 100).all()


def test_label_files_name_members_of_shards(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("somewhere/0003.png 7\n")
    (clip,) = read_labels([str(file)], folder, format="videomae").manifest.clips
    assert (clip.path, clip.label, clip.split) == ("part-000.tar/0003.png", "7", "train")
    assert clip.tar_offset is not None


def test_sources_that_name_no_shard(tmp_path: Path) -> None:
    assert shard_files(tmp_path / "a.csv") == []
    with pytest.raises(UserError, match=r"2 of the 3 shards .* first is .*part-003\.tar"):
        shard(tmp_path / "part-002.tar", {})
        shard_files(tmp_path / "part-{002..004}.tar")
    with pytest.raises(UserError, match=r"\{3\.\.1\} of .* runs backwards"):
        shard_files(tmp_path / "part-{3..1}.tar")
    with pytest.raises(UserError, match="holds no sample"):
        listed_clips(tmp_path / "part-002.tar")
    with pytest.raises(UserError, match="neither a folder nor a manifest nor shards"):
        open_source(config(tmp_path / "nowhere"))
