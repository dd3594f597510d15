"""Clips that keep their own length: what a batch holds, which clips go together, what is left out.

Letters: B batch, T frames, S pixels, K samples of a frame.
"""

import dataclasses
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch

from avssl.data.config import DataConfig, FbankConfig, FramesConfig, Recipe
from avssl.data.container import MediaError
from avssl.data.dataset import ClipDataset
from avssl.data.length_config import LengthsConfig, LipsConfig, TextConfig, WaveConfig
from avssl.data.loader import make_buckets, make_eval_loader, steps_per_epoch
from avssl.data.manifest import Clip, Manifest
from avssl.data.scan import folder_clips, scan_clips
from avssl.errors import UserError
from tests.data.steps import assert_equal, batches

RATE, SIDE, COUNT = 25, 64, 75
LIPS = LipsConfig(size=56, stored=SIDE, flip=0.5)
INPUTS: dict[str, Recipe] = {
    "video": LIPS,
    "audio": WaveConfig(),
    "text": TextConfig(alphabet="abcdefgh "),
}
LENGTHS = LengthsConfig(budget=200, longest=2.0, shortest=0.4, buckets=3)
CONFIG = DataConfig(lengths=LENGTHS, workers=0, inputs=INPUTS)


def picture(number: int) -> np.ndarray:
    """uint8 [S, S, 3]: the number in the grey levels of the left and the right half."""
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    image[:, : SIDE // 2] = 20 + 14 * (number % 16)
    image[:, SIDE // 2 :] = 20 + 14 * (number // 16)
    return image


def number_in(image: np.ndarray, *, flipped: bool = False) -> int:
    """The number of a grey picture [S, S], whole or cropped."""
    low, high = (round((float(image[20:36, x].mean()) - 20) / 14) for x in (5, -6))
    return high + 16 * low if flipped else low + 16 * high


def middle_of(image: np.ndarray) -> int:
    """Where the halves of a picture [S, S] meet."""
    return int(np.abs(np.diff(image[30].astype(int))).argmax())


def write_clip(path: Path, *, rate: int = RATE, side: tuple[int, int] = (SIDE, SIDE)) -> None:
    """3 s of numbered pictures, and a wav beside it that rises by 1e-6 with each sample."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": "10", "g": "15"})
        stream.width, stream.height, stream.pix_fmt = *side, "yuv420p"
        for number in range(3 * rate):
            image = np.resize(picture(number), (side[1], side[0], 3))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    if side[0] == side[1]:
        ramp = np.arange(3 * 16000, dtype=np.float32) * 1e-6
        soundfile.write(path.with_suffix(".wav"), ramp, 16000, subtype="FLOAT")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengths")
    write_clip(folder / "a.mp4")
    return folder


@pytest.fixture(scope="module")
def scanned(folder: Path) -> Clip:
    return scan_clips(folder, folder_clips(folder, folder), workers=1)[0]


@pytest.fixture(scope="module")
def manifest(folder: Path, scanned: Clip) -> Manifest:
    """24 stretches of one file, of 12 to 50 frames."""
    counts = [12 + (number * 7) % 39 for number in range(24)]
    return Manifest(folder, [stretch(scanned, n % 20, count) for n, count in enumerate(counts)])


def stretch(clip: Clip, first: int, count: int, **changes: Any) -> Clip:
    values = {"text": "abc" * (1 + count // 20), "split": "train", "label": str(count % 3)}
    return dataclasses.replace(
        clip, start=first / RATE, end=(first + count) / RATE, **(values | changes)
    )


@pytest.fixture
def dataset(manifest: Manifest) -> ClipDataset:
    return ClipDataset(manifest, CONFIG)


def test_a_batch_holds_each_clip_as_it_is_alone(dataset: ClipDataset, manifest: Manifest) -> None:
    """Every row of a batch is the clip alone, then zeros, exactly; units end with -1."""
    for step, batch in enumerate(batches(dataset, 0, 4)):
        clips, _, time = batch["video"].shape[:3]
        assert batch["video"].shape[3:] == (56, 56) and batch["video"].dtype == torch.float32
        assert batch["audio"].shape == (clips, time, 640)
        assert batch["text"].dtype == batch["frames"].dtype == torch.int64
        real = torch.zeros(clips * time, dtype=torch.bool)
        real[batch["frames"]] = True
        assert (batch["frames"].diff() > 0).all()
        counts = real.view(clips, time).sum(1).tolist()
        shuffled = ClipDataset(manifest, CONFIG)
        shuffled.seed = 3
        for row, clip in enumerate(batch["clip"].tolist()):
            count = round((manifest.clips[clip].end - manifest.clips[clip].start) * RATE)  # type: ignore[operator]
            assert count == counts[row] and real.view(clips, time)[row, :count].all()
            epoch = step // steps_per_epoch(dataset, CONFIG)
            alone = dataset.finish(dataset.collate([shuffled[(epoch, clip)]]))
            assert torch.equal(batch["video"][row, :, :count], alone["video"][0])
            assert torch.equal(batch["audio"][row, :count], alone["audio"][0])
            assert torch.equal(batch["text"][row, : alone["text"].shape[1]], alone["text"][0])
            assert (batch["video"][row, :, count:] == 0).all()
            assert (batch["audio"][row, count:] == 0).all()
            assert (batch["text"][row, alone["text"].shape[1] :] == -1).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_same_batches_for_any_number_of_workers(dataset: ClipDataset, workers: int) -> None:
    assert_equal(batches(dataset, 0, 5), batches(dataset, 0, 5, workers=workers))


def test_resume_equals_uninterrupted(dataset: ClipDataset) -> None:
    whole = batches(dataset, 0, 10)
    for step in (1, 5, 9):
        assert_equal(batches(dataset, step, 10), whole[step:])


def test_ranks_together_equal_one_process(manifest: Manifest) -> None:
    """Batches of 2 processes, below each other, are those of one where these are even anyway."""
    lengths = LengthsConfig(budget=100, longest=2.0, buckets=1)
    dataset = ClipDataset(manifest, dataclasses.replace(CONFIG, lengths=lengths))
    whole = batches(dataset, 0, 12)
    assert {len(batch["clip"]) for batch in whole} == {2}
    parts = [batches(dataset, 0, 12, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        for name in ("audio", "video", "clip", "label", "text"):
            assert torch.equal(torch.cat([part[step][name] for part in parts]), batch[name])
        time = batch["audio"].shape[1]
        frames = [part[step]["frames"] + rank * time for rank, part in enumerate(parts)]
        assert torch.equal(torch.cat(frames), batch["frames"])


def test_batches_keep_the_budget_and_an_epoch_its_number_of_steps(dataset: ClipDataset) -> None:
    steps = steps_per_epoch(dataset, CONFIG)
    seen = []
    for epoch in range(6):
        found = batches(dataset, epoch * steps, (epoch + 1) * steps)
        assert all(batch["audio"].shape[:2].numel() <= LENGTHS.budget for batch in found)
        clips = torch.cat([batch["clip"] for batch in found]).tolist()
        assert len(clips) == len(set(clips)) == make_buckets(dataset, CONFIG, world=1).clips
        seen.append(clips)
    assert len({tuple(clips) for clips in seen}) == 6
    assert set().union(*seen) == set(range(24))  # what one epoch leaves out, others have


def test_buckets_hold_similar_lengths(dataset: ClipDataset) -> None:
    """Less than half the padding of batches that are made at random."""
    assert dataset.sizes is not None
    frames = dataset.sizes[:, 0]
    random = frames[np.random.default_rng(0).permutation(24)].reshape(6, 4)
    padded = sum(batch["audio"].shape[:2].numel() for batch in batches(dataset, 0, 6))
    real = sum(len(batch["frames"]) for batch in batches(dataset, 0, 6))
    assert 1 - real / padded < 0.5 * (1 - random.sum() / (4 * random.max(1)).sum())


def test_a_budget_too_small_names_the_numbers(dataset: ClipDataset) -> None:
    small = dataclasses.replace(LENGTHS, budget=99)
    with pytest.raises(
        UserError,
        match=r"budget = 99 frames does not hold a clip of 50 frames for each of 2 processes: set "
        "it to at least 100",
    ):
        batches(dataset, 0, 1, lengths=small, world=2)
    assert dataset.sizes is not None
    shortest = dataclasses.replace(LENGTHS, budget=int(dataset.sizes[:, 0].min()) - 1)
    with pytest.raises(UserError, match="set it to at least 50"):  # what all buckets need
        batches(dataset, 0, 1, lengths=shortest)
    with pytest.raises(UserError, match="24 clips are too few for 25 processes"):
        batches(dataset, 0, 1, world=25)


def test_evaluation_gives_each_clip_once_within_the_budget(manifest: Manifest) -> None:
    held_out = ClipDataset(manifest, CONFIG, training=False)
    first = list(make_eval_loader(held_out, CONFIG))
    assert sorted(torch.cat([batch["clip"] for batch in first]).tolist()) == list(range(24))
    assert all(batch["audio"].shape[:2].numel() <= LENGTHS.budget for batch in first)
    assert_equal(first, list(make_eval_loader(held_out, CONFIG)))
    some = list(make_eval_loader(held_out, CONFIG, clips=3))
    assert sorted(torch.cat([batch["clip"] for batch in some]).tolist()) == [0, 8, 16]
    small = dataclasses.replace(CONFIG, lengths=dataclasses.replace(LENGTHS, budget=10))
    assert len(list(make_eval_loader(held_out, small, clips=3))) == 3  # one clip each


# what is read


def without_text(config: DataConfig = CONFIG, **changes: Any) -> DataConfig:
    inputs = {name: recipe for name, recipe in INPUTS.items() if name != "text"}
    return dataclasses.replace(config, inputs=inputs, **changes)


def test_pictures_and_sound_are_of_the_same_random_stretch(folder: Path, scanned: Clip) -> None:
    """Of a clip that is too long a stretch is read, elsewhere in each epoch; one crop, one flip."""
    long = Manifest(folder, [stretch(scanned, 5, 70)])
    dataset = ClipDataset(long, without_text())
    firsts, flips, crops = set(), set(), set()
    for epoch in range(12):
        raw = dataset[(epoch, 0)].inputs
        assert raw["video"].shape == (1, 50, 56, 56) and raw["video"].dtype == np.uint8
        assert raw["audio"].shape == (50, 640) and raw["audio"].dtype == np.float32
        first = round(float(raw["audio"][0, 0]) * 1e6) / 640
        expected = np.arange(50 * 640) * 1e-6 + first * 640e-6
        np.testing.assert_allclose(raw["audio"].reshape(-1), expected, atol=1e-8)
        shown = raw["video"][0]
        flipped = number_in(shown[0]) != first
        assert [number_in(image, flipped=flipped) for image in shown] == [
            first + k for k in range(50)
        ]
        clear = [image for k, image in enumerate(shown) if (first + k) % 16 >= 8]
        edges = [middle_of(image) for image in clear]
        assert max(edges) - min(edges) <= 1  # the halves meet at one place in the whole clip
        firsts.add(first)
        flips.add(flipped)
        crops.add(edges[0])
    assert len(firsts) > 5 and min(firsts) >= 5 and max(firsts) <= 25
    assert flips == {False, True} and len(crops) > 3


def test_evaluation_takes_the_middle_and_the_centre(folder: Path, scanned: Clip) -> None:
    long = Manifest(folder, [stretch(scanned, 5, 70)])
    dataset = ClipDataset(long, without_text(), training=False)
    raw = dataset[(0, 0)].inputs
    assert_same = np.testing.assert_array_equal
    assert_same(raw["video"], dataset[(7, 0)].inputs["video"])
    assert [number_in(image) for image in raw["video"][0]] == list(range(15, 65))
    assert raw["audio"][0, 0] == pytest.approx(15 * 640e-6)
    assert abs(middle_of(raw["video"][0, 0]) - 27) <= 1  # of 56 pixels


def test_lips_are_normalised_grey(dataset: ClipDataset) -> None:
    sample = dataset[(0, 0)]
    batch = dataset.finish(dataset.collate([sample]))
    pixels = torch.from_numpy(sample.inputs["video"]).float() / 255
    torch.testing.assert_close(batch["video"][0], (pixels - 0.421) / 0.165, atol=1e-6, rtol=1e-5)


def test_grey_is_that_of_pillow() -> None:
    from PIL import Image

    from avssl.data.lengths import cropped_lips

    colours = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    found = cropped_lips(colours, LipsConfig(size=8, stored=8), None)
    assert found.shape == (1, 2, 8, 8)
    for image, grey in zip(colours, found[0], strict=True):
        np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(image).convert("L")))


def test_a_file_of_another_rate_is_resampled_by_time(tmp_path: Path) -> None:
    write_clip(tmp_path / "fast.mp4", rate=30)
    clips = scan_clips(tmp_path, folder_clips(tmp_path, tmp_path), workers=1)
    longer = without_text(lengths=dataclasses.replace(LENGTHS, longest=4.0))
    manifest = Manifest(tmp_path, [dataclasses.replace(clips[0], split="train")])
    raw = ClipDataset(manifest, longer, training=False)[(0, 0)].inputs
    numbers = [number_in(image) for image in raw["video"][0]]
    assert len(numbers) == 75 and numbers == [int(k * 30 / 25 + 1e-6) for k in range(75)]
    assert raw["audio"].shape == (75, 640)


# what is left out


def test_clips_that_cannot_serve_are_left_out_with_a_reason(folder: Path, scanned: Clip) -> None:
    clips = [
        stretch(scanned, 0, 20),
        stretch(scanned, 0, 20, text=" "),
        stretch(scanned, 0, 20, text="abc xyz"),
        stretch(scanned, 0, 10, text="aabbcc"),  # needs 9
        stretch(scanned, 0, 12, text="aabbccdd h"),  # needs 14
        stretch(scanned, 0, 60),
        stretch(scanned, 0, 8),
        stretch(scanned, 0, 20, has_audio=False),
        stretch(scanned, 0, 20, width=120),
        stretch(scanned, 0, 20, width=160, height=160),  # a face of LRS2
        stretch(scanned, 0, 20, width=16, height=16),
    ]
    dataset = ClipDataset(Manifest(folder, clips), CONFIG)
    assert dataset.rows == [0, 3]
    reasons = [reason for _, reason in dataset.left_out]
    parts = [
        "its transcript is empty",
        "no unit stands for 'x'",
        "its transcript of 10 units needs 14 frames and it has 12",
        "is 2.40 s long and cannot be cut, for its transcript is read: data.lengths.longest is 2",
        "is 0.32 s long, data.lengths.shortest is 0.4",
        "has no sound",
        "its picture of 120 x 64 is no mouth crop (square, 32 to 128 pixels): make crops "
        "with tools/prepare_lips.py",
        "its picture of 160 x 160 is no mouth crop",
        "its picture of 16 x 16 is no mouth crop",
    ]
    assert len(reasons) == len(parts)
    for reason, part in zip(reasons, parts, strict=True):
        assert part in reason
    assert "2 clips serve, 9 are left out" in dataset.describe()
    assert dataset.counts.startswith("2 used, 9 left out: 3 its picture of 120 x 64 is no mouth")
    assert dataset.counts.endswith("; 2 for other reasons")
    assert ClipDataset(Manifest(folder, clips), without_text()).rows == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"none of the 3 clips .*prepare_lips"):
        ClipDataset(Manifest(folder, clips[8:]), CONFIG)


def test_an_unreadable_clip_is_replaced_by_one_that_fits(
    dataset: ClipDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClipDataset._read
    bad = {4, 11, 17}

    def read(self: ClipDataset, index: int, *given: Any) -> Any:
        if index in bad:
            raise MediaError("damaged")
        return original(self, index, *given)

    good = batches(dataset, 0, 8)
    monkeypatch.setattr(ClipDataset, "_read", read)
    found = batches(dataset, 0, 8)
    replaced = sum(int(batch["replaced"].sum()) for batch in found)
    assert replaced == sum(clip in bad for batch in good for clip in batch["clip"].tolist()) > 0
    for batch, before in zip(found, good, strict=True):
        assert batch["video"].shape == before["video"].shape
        assert batch["text"].shape == before["text"].shape
        assert not set(batch["clip"].tolist()) & bad
        # of the same bucket as those of the batch
        assert dataset.sizes is not None
        lengths, others = (dataset.sizes[item["clip"], 0] for item in (batch, before))
        floor = make_buckets(dataset, CONFIG, world=1).shortest(int(others.min()))
        assert lengths.min() >= floor


def test_a_share_of_the_train_split_is_the_same_for_any_seed(folder: Path, scanned: Clip) -> None:
    clips = [
        dataclasses.replace(scanned, path=f"{number}.mp4", split=split, text="abc", end=1.0)
        for number in range(400)
        for split in ("train", "val")
    ]
    few, more = (
        ClipDataset(Manifest(folder, clips), dataclasses.replace(CONFIG, train_share=share))
        for share in (0.1, 0.4)
    )
    assert 20 < len(few) < 60 and 120 < len(more) < 200
    assert set(few.rows) < set(more.rows)
    assert f"{400 - len(few)} are not in data.train_share = 0.1" in few.describe()
    assert few.counts == f"{len(few)} used, {400 - len(few)} not in data.train_share = 0.1"
    config = dataclasses.replace(CONFIG, train_share=0.1)
    assert len(ClipDataset(Manifest(folder, clips), config, split="val")) == 400
    with pytest.raises(UserError, match="train_share = 1e-06 takes none of the 400 clips"):
        ClipDataset(Manifest(folder, clips), dataclasses.replace(CONFIG, train_share=1e-6))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lengths": None}, "inputs.video is of type lips, which has the length of the clip"),
        ({"inputs": {"audio": FbankConfig()}}, "type fbank, which needs a fixed window"),
        ({"inputs": {"video": FramesConfig()}}, "type frames, which needs a fixed window"),
        ({"inputs": {"text": TextConfig()}}, "needs one of type lips or wave"),
        ({"inputs": INPUTS | {"audio": WaveConfig(rate=50)}}, "must agree on rate"),
        ({"inputs": INPUTS | {"more": TextConfig()}}, "more than one of type text"),
        ({"inputs": {"frames": WaveConfig()}}, "frames is in every batch already"),
        ({"train_share": 0.0}, "train_share is a share above 0"),
    ],
)
def test_sections_that_do_not_fit_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LipsConfig(size=88, stored=64), "stored must be at least size"),
        (lambda: WaveConfig(rate=30), "must be a multiple of rate"),
        (lambda: TextConfig(units="sentencepiece"), "model is the file of units: sentencepiece"),
        (lambda: TextConfig(alphabet="aa"), "names a character twice"),
        (lambda: LengthsConfig(longest=0.1), "is less than shortest"),
        (lambda: LengthsConfig(budget=0), "budget must be above 0"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
