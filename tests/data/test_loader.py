"""The loader: one order for any number of workers, ranks and restarts; failures counted, not fatal.

Letters: B batch, N samples, T pictures.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.container import MediaError
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader, steps_per_epoch
from avssl.data.manifest import Clip, Manifest, hash_split
from avssl.data.scan import folder_clips, scan_clips
from avssl.data.usable import extent
from avssl.errors import UserError
from tests.data.steps import assert_equal, batches

INPUTS = {
    "audio": FbankConfig(bins=16, frames=64, gain=True, shift=True),
    "video": FramesConfig(frames=4, size=48, short_side=[52, 60], flip=0.5),
}
CONFIG = DataConfig(window=0.6, batch=4, workers=0, inputs=INPUTS)
PLAIN = {
    "audio": FbankConfig(bins=16, frames=64),
    "video": FramesConfig(frames=4, size=104, mean=[0, 0, 0], std=[1, 1, 1]),
}
COUNT = 10


@pytest.fixture
def dataset(manifest: Manifest) -> ClipDataset:
    return ClipDataset(manifest, CONFIG)


def test_shapes_and_labels(dataset: ClipDataset, manifest: Manifest) -> None:
    batch = batches(dataset, 0, 1)[0]
    assert batch["audio"].shape == (4, 1, 64, 16) and batch["audio"].dtype == torch.float32
    assert batch["video"].shape == (4, 3, 4, 48, 48) and batch["video"].dtype == torch.float32
    assert batch["failures"] == [] and batch["replaced"].tolist() == [0] * 4
    labels = [manifest.clips[row].label for row in batch["clip"]]
    assert [dataset.classes[label] for label in batch["label"]] == labels


@pytest.mark.parametrize("workers", [1, 2])
def test_same_batches_for_any_number_of_workers(dataset: ClipDataset, workers: int) -> None:
    assert_equal(batches(dataset, 0, 5), batches(dataset, 0, 5, workers=workers))


def test_resume_in_the_middle_of_an_epoch_equals_uninterrupted(dataset: ClipDataset) -> None:
    whole = batches(dataset, 0, 6)
    for step in (1, 2, 5):
        assert_equal(batches(dataset, step, 6), whole[step:])


def test_ranks_together_equal_one_process(dataset: ClipDataset) -> None:
    whole = batches(dataset, 0, 3)
    parts = [batches(dataset, 0, 3, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        for name in ("audio", "video", "clip", "label"):
            assert torch.equal(torch.cat([part[step][name] for part in parts]), batch[name])


def test_an_epoch_shows_no_clip_twice_and_epochs_differ(dataset: ClipDataset) -> None:
    assert steps_per_epoch(dataset, CONFIG) == COUNT // 4
    clips = [batch["clip"].tolist() for batch in batches(dataset, 0, 6)]
    epochs = [clips[k] + clips[k + 1] for k in (0, 2, 4)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_evaluation_gives_each_clip_once_and_the_same_every_time(dataset: ClipDataset) -> None:
    held_out = ClipDataset(Manifest(dataset.root, dataset.clips), CONFIG, training=False)
    first = list(make_eval_loader(held_out, CONFIG))
    assert torch.cat([batch["clip"] for batch in first]).tolist() == list(range(COUNT))
    assert_equal(first, list(make_eval_loader(held_out, CONFIG)))
    some = list(make_eval_loader(held_out, CONFIG, clips=3))
    assert torch.cat([batch["clip"] for batch in some]).tolist() == [0, 3, 6]


def test_more_rows_than_clips_is_a_user_error(dataset: ClipDataset) -> None:
    with pytest.raises(UserError, match=r"10 usable clips, fewer than data\.batch = 64"):
        batches(dataset, 0, 1, batch=64)


def test_sound_and_pictures_come_from_the_same_window(
    tmp_path: Path, write_media: Any, number_in: Any
) -> None:
    """Clicks in the waveform stand where the pictures say that the window is."""
    write_media(tmp_path / "a.mkv", audio="pcm_s16le")
    clips = scan_clips(tmp_path, folder_clips(tmp_path, tmp_path), workers=1)
    clips = [dataclasses.replace(clips[0], split="train")]
    config = DataConfig(window=2.0, batch=1, workers=0, inputs=PLAIN)
    dataset = ClipDataset(Manifest(tmp_path, clips), config)
    starts = set()
    for epoch in range(8):
        sample = dataset[(epoch, 0)]
        pictures = sample.inputs["video"].transpose(1, 2, 3, 0)  # [T, H, W, 3]
        numbers = [number_in(image) for image in pictures]
        start = numbers[0] / 25  # s, to the picture
        steps = np.diff(numbers)
        assert set(steps) <= {12, 13}  # 0.5 s apart
        clicks = np.flatnonzero(np.abs(sample.inputs["audio"]) > 0.2)
        inside = start <= 2.0 - 0.04
        assert len(clicks) > 0 or not inside
        if len(clicks):
            assert -0.001 <= 2.0 - clicks[0] / 16000 - start <= 0.041
        starts.add(numbers[0])
    assert len(starts) >= 5 and max(starts) <= 50


def test_evaluation_takes_the_centre(manifest: Manifest, number_in: Any) -> None:
    config = DataConfig(window=0.4, batch=1, workers=0, inputs=PLAIN)
    dataset = ClipDataset(manifest, config, training=False)
    for index in range(2):
        pictures = dataset[(0, index)].inputs["video"].transpose(1, 2, 3, 0)
        assert [number_in(image) for image in pictures] == [10, 12, 15, 17]


def test_pictures_may_cover_a_part_of_the_window(manifest: Manifest, number_in: Any) -> None:
    """0.4 s of pictures within 1.2 s of sound: the middle, or anywhere in training."""
    pictures = dataclasses.replace(PLAIN["video"], seconds=0.4)  # type: ignore[type-var]
    inputs = {"audio": PLAIN["audio"], "video": pictures}
    config = DataConfig(window=1.2, batch=1, workers=0, inputs=inputs)
    centre = ClipDataset(manifest, config, training=False)[(0, 0)].inputs
    assert len(centre["audio"]) == round(1.2 * 16000)
    shown = centre["video"].transpose(1, 2, 3, 0)  # [T, H, W, 3]
    assert [number_in(image) for image in shown] == [10, 12, 15, 17]
    training = ClipDataset(manifest, config)
    firsts = [training[(epoch, 0)].inputs["video"].transpose(1, 2, 3, 0)[0] for epoch in range(8)]
    starts = {number_in(image) for image in firsts}
    assert len(starts) >= 4 and max(starts) <= 20
    with pytest.raises(ValueError, match="longer than the window"):
        dataclasses.replace(config, window=0.3)


def test_windows_in_the_middle_are_the_same_in_every_epoch_and_those_of_evaluation(
    manifest: Manifest,
) -> None:
    video = dataclasses.replace(PLAIN["video"], seconds=0.1)  # type: ignore[type-var]
    inputs = {**PLAIN, "video": video}
    config = dataclasses.replace(CONFIG, inputs=inputs, window_position="middle")
    training = ClipDataset(manifest, config)
    middle = ClipDataset(manifest, config, training=False)[(0, 0)].inputs
    moving = ClipDataset(manifest, dataclasses.replace(config, window_position="random"))
    for name in inputs:
        epochs = [training[(epoch, 0)].inputs[name] for epoch in range(3)]
        assert all(np.array_equal(found, middle[name]) for found in epochs)
        drawn = [moving[(epoch, 0)].inputs[name] for epoch in range(3)]
        assert not all(np.array_equal(found, middle[name]) for found in drawn)


def test_every_draw_of_training_is_named_with_the_value_that_ends_it() -> None:
    assert INPUTS["audio"].draws == {"shift": "false", "gain": "false"}
    assert INPUTS["video"].draws == {"short_side": "null", "flip": "0"}
    assert PLAIN["audio"].draws == PLAIN["video"].draws == {}
    every = FramesConfig(
        area=[0.5, 1.0], jitter=[0.1, 0.1, 0.1, 0.1], grey=0.1, blur=0.1, solarise=0.1
    )
    assert list(every.draws) == ["area", "jitter", "grey", "blur", "solarise"]
    assert FramesConfig(scales=[1.0]).draws == {"scales": "null"}


def test_short_clips_repeat_sound_and_pictures_alike(manifest: Manifest, number_in: Any) -> None:
    config = DataConfig(
        window=3.0,
        batch=1,
        workers=0,
        inputs={"audio": PLAIN["audio"], "video": dataclasses.replace(PLAIN["video"], frames=30)},  # type: ignore[type-var]
    )
    dataset = ClipDataset(manifest, config, training=False)
    sample = dataset[(0, 0)]
    pictures = sample.inputs["video"].transpose(1, 2, 3, 0)  # [T, H, W, 3], every 0.1 s
    numbers = [number_in(image) for image in pictures]
    assert numbers == [int((k * 0.1 % 1.2) * 25 + 1e-6) for k in range(30)]
    sound = sample.inputs["audio"]
    period = round(1.2 * 16000)
    assert len(sound) == 48000
    np.testing.assert_array_equal(sound[:period], sound[period : 2 * period])


def test_rows_with_start_and_end_stay_inside(manifest: Manifest, number_in: Any) -> None:
    clips = [dataclasses.replace(clip, start=0.4, end=0.9) for clip in manifest.clips]
    config = DataConfig(window=0.3, batch=1, workers=0, inputs=PLAIN)
    dataset = ClipDataset(Manifest(manifest.root, clips), config)
    for epoch in range(10):
        pictures = dataset[(epoch, epoch)].inputs["video"].transpose(1, 2, 3, 0)
        numbers = [number_in(image) for image in pictures]
        assert min(numbers) >= 10 and max(numbers) <= 22


def test_audio_alone_uses_all_of_the_sound() -> None:
    clip = Clip(
        path="a.mp4", has_video=True, has_audio=True, duration=1.0, sound_offset=0.5,
        sound_duration=4.0,
    )  # fmt: skip
    assert extent(clip, video=True) == (0.0, 1.0)
    assert extent(clip, video=False) == (0.0, 4.5)


def test_pictures_are_scaled_to_the_configured_mean_and_deviation(manifest: Manifest) -> None:
    config = DataConfig(window=0.4, batch=2, workers=0, inputs={"video": FramesConfig(size=32)})
    dataset = ClipDataset(manifest, config, training=False)
    sample = dataset[(0, 0)]
    batch = dataset.finish(dataset.collate([sample, sample]))
    pixels = torch.from_numpy(sample.inputs["video"]).float() / 255  # [3, T, H, W]
    expected = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1, 1)
    torch.testing.assert_close(batch["video"][0], expected, atol=1e-5, rtol=1e-5)


def test_a_missing_split_is_explained(manifest: Manifest) -> None:
    with pytest.raises(UserError, match=r"no clip in the split 'val' \(it has train 10\)") as error:
        ClipDataset(manifest, CONFIG, split="val")
    assert "fill its column 'split'" in str(error.value)


def test_a_missing_split_of_a_plain_folder_is_explained(manifest: Manifest) -> None:
    """Three clips are too few for a split by path, and there is no column to fill."""
    clips = [dataclasses.replace(clip, split="") for clip in manifest.clips]
    train = [clip for clip in clips if hash_split(clip.path) == "train"][:3]
    folder = Manifest(manifest.root, train).with_splits()
    with pytest.raises(UserError, match=r"no clip in the split 'val' \(it has train 3\)") as error:
        ClipDataset(folder, CONFIG, split="val")
    message = str(error.value)
    assert "add more clips, or write a manifest.csv with a column 'split'" in message
    assert "fill its column" not in message


# failures


@pytest.fixture
def breaking(dataset: ClipDataset, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A dataset with clips that break (set of indices) or hang."""
    original = ClipDataset._read
    bad: set[int] = set()
    hanging: set[int] = set()

    def read(self: ClipDataset, index: int, *given: Any) -> Any:
        if index in hanging:
            time.sleep(30)
        if index in bad:
            raise MediaError("damaged")
        return original(self, index, *given)

    monkeypatch.setattr(ClipDataset, "_read", read)
    yield dataset, bad, hanging


def test_a_bad_clip_is_replaced_and_reported(breaking: Any) -> None:
    dataset, bad, _ = breaking
    bad.add(0)
    good = batches(dataset, 0, 4)
    again = batches(dataset, 0, 4)
    assert_equal(good, again)
    failures = [failure for batch in good for failure in batch["failures"]]
    assert failures and set(failures) == {(dataset.clips[0].path, "damaged")}
    assert sum(int(batch["replaced"].sum()) for batch in good) == len(failures)
    assert all(0 not in batch["clip"] for batch in good)


def test_a_hanging_clip_is_given_up(breaking: Any) -> None:
    dataset, _, hanging = breaking
    dataset.config = dataclasses.replace(CONFIG, time_limit=1.5)
    hanging.add(1)
    begin = time.monotonic()
    sample = dataset[(0, 1)]
    assert time.monotonic() - begin < 15
    assert sample.replaced and sample.failures == [
        (dataset.clips[1].path, "took longer than 1.5 s")
    ]


def test_too_many_bad_clips_stop_the_run(breaking: Any) -> None:
    dataset, bad, _ = breaking
    bad.update(range(6))
    with pytest.raises(UserError, match=r"could not be read, more than data.max_bad_share = 0.2"):
        batches(dataset, 0, 8)
    assert len(batches(dataset, 0, 8, max_bad_share=1.0)) == 8
    bad.update(range(10))
    with pytest.raises(UserError, match="could not be read"):
        batches(dataset, 0, 1, max_bad_share=1.0)
