"""Folders of pictures: found, labelled, read, trained on and probed as clips of one picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from avssl.data.config import DataConfig, FramesConfig, RandAugmentConfig
from avssl.data.container import MediaError
from avssl.data.dataset import ClipDataset
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import read_pictures
from avssl.data.prepare import check_clip
from avssl.data.probe import probe_clip
from avssl.data.scan import folder_clips
from avssl.data.source import open_source
from avssl.data.stills import NARROWEST
from avssl.data.transcode import Target, prepare_clips
from avssl.errors import UserError

RED = (255, 0, 0)


def image(path: Path, size: tuple[int, int] = (80, 60), colour: tuple[int, int, int] = RED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def config(source: Path, **inputs: object) -> DataConfig:
    recipe = FramesConfig(frames=1, size=32, **inputs)  # type: ignore[arg-type]
    return DataConfig(
        source=str(source), cache=str(source.parent / "cache"), batch=2, workers=0, window=2.0,
        inputs={"image": recipe},
    )  # fmt: skip


def rows(folder: Path) -> list[tuple[str, str, str]]:
    return [(clip.path, clip.label, clip.split) for clip in folder_clips(folder, folder)]


def test_folders_of_classes_and_of_splits(tmp_path: Path) -> None:
    for name in ("plain/cat/a.JPEG", "plain/dog/b.png", "plain/dog/deep/c.webp"):
        image(tmp_path / name)
    assert rows(tmp_path / "plain") == [
        ("cat/a.JPEG", "cat", ""), ("dog/b.png", "dog", ""), ("dog/deep/c.webp", "dog", ""),
    ]  # fmt: skip
    for name in ("net/train/cat/a.jpg", "net/train/dog/b.jpg", "net/val/cat/c.jpg"):
        image(tmp_path / name)
    image(tmp_path / "net/test/d.jpg")  # ImageNet's test split has no classes
    assert rows(tmp_path / "net") == [
        ("test/d.jpg", "", "test"), ("train/cat/a.jpg", "cat", "train"),
        ("train/dog/b.jpg", "dog", "train"), ("val/cat/c.jpg", "cat", "val"),
    ]  # fmt: skip
    for name in ("half/train/cat/a.jpg", "half/train/dog/b.jpg"):
        image(tmp_path / name)  # one split says nothing: the paths decide, but classes are there
    assert rows(tmp_path / "half") == [
        ("train/cat/a.jpg", "cat", ""), ("train/dog/b.jpg", "dog", ""),
    ]  # fmt: skip
    for name in ("kinds/train/a.jpg", "kinds/tram/b.jpg"):
        image(tmp_path / name)  # not all folders are splits, so they are classes
    assert [label for _, label, _ in rows(tmp_path / "kinds")] == ["train", "tram"]


def test_a_picture_beside_a_clip_is_its_cover(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.wav", "b.wav"):
        (tmp_path / name).touch()
    for name in ("a.jpg", "b.png", "c.png"):
        image(tmp_path / name)
    assert [path for path, *_ in rows(tmp_path)] == ["a.mp4", "b.wav", "c.png"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "RGBA"), ("a.png", "P"), ("a.png", "L"), ("a.jpg", "CMYK"), ("a.tif", "RGB"),
     ("a.bmp", "RGB"), ("a.webp", "RGB")],
)  # fmt: skip
def test_all_kinds_of_pictures_come_as_rgb(tmp_path: Path, name: str, mode: str) -> None:
    Image.new("RGB", (80, 60), (250, 250, 250)).convert(mode).save(tmp_path / name)
    clip = probe_clip(tmp_path, Clip(path=name))
    assert (clip.has_video, clip.has_audio, clip.frames, clip.reader) == (True, False, 1, "pillow")
    found = read_pictures(tmp_path / name, clip, [0.0, 7.0], short_side=30)
    assert found.shape == (2, 30, 40, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - 250).max() < 8


def test_pictures_are_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (80, 60))
    picture.paste(RED, (0, 0, 80, 30))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "a.jpg", exif=exif)
    clip = probe_clip(tmp_path, Clip(path="a.jpg"))
    assert (clip.width, clip.height) == (60, 80)
    found = read_pictures(tmp_path / "a.jpg", clip, [0.0])[0]  # [80, 60, 3]
    assert found[40, 50, 0] > 200 and found[40, 10, 0] < 60  # the upper half is on the right now


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(noise).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    image(tmp_path / "thin.png", (20 * NARROWEST, 10))
    reasons = {
        path: probe_clip(tmp_path, Clip(path=path)).reason
        for path in (
            "cut.jpg",
            "cut.png",
            "empty.png",
            "text.png",
            "script.png",
            "thin.png",
            "no.png",
        )
    }
    assert "truncated" in reasons["cut.jpg"] and "truncated" in reasons["cut.png"]
    assert reasons["empty.png"] == "the file is empty"
    assert reasons["text.png"].startswith("damaged or not a picture (cannot identify image file")
    assert reasons["script.png"] == reasons["text.png"]
    assert "too narrow: at most 50 to 1" in reasons["thin.png"]
    assert reasons["no.png"] == "cannot be read (No such file or directory)"
    assert not any(str(tmp_path) in reason for reason in reasons.values())
    assert check_clip(str(tmp_path), Clip(path="cut.jpg")) == reasons["cut.jpg"]
    image(tmp_path / "good.jpg")
    for split in ("train", "val", "test"):
        rows = open_source(config(tmp_path)).clips
        used = ClipDataset(Manifest(tmp_path, rows), config(tmp_path), split=None)
        assert [clip.path for clip in used.clips] == ["good.jpg"], split
        assert dict(used.left_out)["cut.jpg"] == reasons["cut.jpg"]


def test_a_picture_lost_after_the_scan_is_replaced_and_named(tmp_path: Path) -> None:
    for number in range(4):
        image(tmp_path / "x" / f"{number}.png", colour=(60 * number, 0, 0))
    manifest = open_source(config(tmp_path / "x"))
    (tmp_path / "x" / "1.png").write_text("gone")
    dataset = ClipDataset(manifest, config(tmp_path / "x"), split=None)
    sample = dataset[0, 1]
    assert sample.replaced and sample.clip != 1 and sample.failures[0][0] == "1.png"
    assert "not a picture" in sample.failures[0][1]


def test_prepared_inputs_have_the_colours_of_the_file(tmp_path: Path) -> None:
    image(tmp_path / "x" / "a.png", (90, 60), (10, 200, 30))
    data = config(tmp_path / "x", area=[0.2, 1.0], flip=0.5)
    dataset = ClipDataset(open_source(data), data, split=None, training=True)
    raw = dataset[0, 0].inputs["image"]
    assert raw.shape == (3, 1, 32, 32)
    assert (raw.reshape(3, -1).T == (10, 200, 30)).all()
    batch = dataset.finish(dataset.collate([dataset[0, 0]]))
    assert batch["image"].shape == (1, 3, 1, 32, 32) and batch["image"].dtype == torch.float32


def test_randaugment_follows_from_the_example_alone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    data = config(tmp_path, randaugment=RandAugmentConfig(operations=4, magnitude=7, std=0.5))
    dataset = ClipDataset(open_source(data), data, split=None, training=True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = [dataset[epoch, 0].inputs["image"] for epoch in range(6)]
    assert torch.equal(torch.get_rng_state(), before)  # of the masks that a step draws
    torch.manual_seed(6)
    again = [dataset[epoch, 0].inputs["image"] for epoch in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({x.tobytes() for x in first}) > 3
    plain = ClipDataset(open_source(data), data, split=None, training=False)
    assert np.array_equal(plain[0, 0].inputs["image"], plain[1, 0].inputs["image"])


@pytest.mark.parametrize(
    ("given", "message"),
    [({"magnitude": 11}, "from 0 to 10"), ({"std": -1}, "std"), ({"operations": 0}, "operations")],
)
def test_randaugment_that_makes_no_sense(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugmentConfig(**given)


def test_a_folder_without_media_says_what_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"no media file or picture lies in .*\.jpg"):
        folder_clips(tmp_path, tmp_path)


def test_small_copies_of_pictures(tmp_path: Path) -> None:
    image(tmp_path / "in" / "train" / "cat" / "a.png", (400, 300), (10, 200, 30))
    image(tmp_path / "in" / "train" / "dog" / "b.png", (40, 30))
    image(tmp_path / "in" / "val" / "dog" / "c.png", (40, 30))
    assert prepare_clips(tmp_path / "in", tmp_path / "out", Target(64), workers=1, limit=60) == 0
    made = Manifest.read(tmp_path / "out" / "manifest.csv").clips
    assert [(c.path, c.label, c.split, c.width) for c in made] == [
        ("train/cat/a.jpg", "cat", "train", 85), ("train/dog/b.jpg", "dog", "train", 40),
        ("val/dog/c.jpg", "dog", "val", 40),
    ]  # fmt: skip
    found = read_pictures(tmp_path / "out" / "train/cat/a.jpg", made[0], [0.0])
    assert np.abs(found.astype(int) - (10, 200, 30)).max() < 8
    # a second call finds all of it done
    stamp = (tmp_path / "out" / "train/cat/a.jpg").stat().st_mtime_ns
    prepare_clips(tmp_path / "in", tmp_path / "out", Target(64), workers=1, limit=60)
    assert (tmp_path / "out" / "train/cat/a.jpg").stat().st_mtime_ns == stamp


def test_reading_a_lost_file_is_a_media_error(tmp_path: Path) -> None:
    clip = probe_clip(tmp_path, Clip(path=image(tmp_path / "a.png").name))
    (tmp_path / "a.png").unlink()
    with pytest.raises(MediaError, match="cannot be read"):
        read_pictures(tmp_path / "a.png", clip, [0.0])
