"""Which pictures of a clip are taken: dense with a stride, one of each segment, and views.

The clip of these tests has 100 pictures of 320 x 208 pixels, 25 a second, that carry their number.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.manifest import Clip, Manifest
from avssl.data.media import read_pictures
from avssl.data.probe import probe_clip
from avssl.data.views import Views
from avssl.encoders.windows import given_clips

DENSE: dict[str, Any] = {"sampling": "dense", "stride": 4}
SEGMENTS: dict[str, Any] = {"sampling": "segments"}
SIZE = 104


def config(**recipe: Any) -> DataConfig:
    frames = FramesConfig(**{"frames": 8, "size": SIZE, **recipe})
    return DataConfig(batch=2, workers=0, window=0.5, inputs={"video": frames})


@pytest.fixture(scope="module")
def clip(numbered: Callable[[str], Any]) -> tuple[Path, Clip]:
    file = numbered("h264.mp4")
    return file.path, probe_clip(file.path.parent, Clip(path=file.path.name))


@pytest.fixture(scope="module")
def shown(clip: tuple[Path, Clip], number_in: Any) -> Callable[..., list[int]]:
    """`shown(data, epoch=0, view=0)`: numbers of the pictures that are read of the clip."""

    def numbers(data: DataConfig, *, epoch: int = 0, view: int = 0, **given: Any) -> list[int]:
        path, row = clip
        dataset = ClipDataset(Manifest(path.parent, [row]), data, split=None, **given)
        raw = dataset[epoch, view].inputs["video"]  # [3, T, S, S]
        return [number_in(picture) for picture in raw.transpose(1, 2, 3, 0)]

    return numbers


def test_dense_takes_the_middle_in_evaluation(shown: Any) -> None:
    assert shown(config(**DENSE)) == list(range(34, 66, 4))  # 100 - 8 * 4, halved


def test_dense_starts_anywhere_in_training(shown: Any) -> None:
    starts = set()
    for epoch in range(8):
        found = shown(config(**DENSE), epoch=epoch, training=True)
        assert np.diff(found).tolist() == [4] * 7
        assert found == shown(config(**DENSE), epoch=epoch, training=True)
        starts.add(found[0])
    assert len(starts) > 4 and min(starts) < 34 < max(starts) <= 68


def test_dense_begins_anew_in_a_clip_that_is_too_short(shown: Any) -> None:
    assert shown(config(frames=4, sampling="dense", stride=30)) == [0, 30, 60, 90]
    assert shown(config(frames=4, sampling="dense", stride=40)) == [0, 40, 80, 20]


def test_segments_take_one_picture_each(shown: Any) -> None:
    assert shown(config(**SEGMENTS)) == [6, 18, 31, 43, 56, 68, 81, 93]  # middles of 12.5 pictures
    seen = set()
    for epoch in range(4):
        found = shown(config(**SEGMENTS), epoch=epoch, training=True)
        assert [int(number // 12.5) for number in found] == list(range(8))
        seen.add(tuple(found))
    assert len(seen) == 4


def test_views_are_spread_evenly_over_the_clip(shown: Any) -> None:
    views = Views(clips=5)
    found = [shown(config(**DENSE), view=number, views=views)[0] for number in range(5)]
    assert found == [0, 17, 34, 51, 68]
    views = Views(clips=2)
    both = [shown(config(**SEGMENTS), view=number, views=views) for number in range(2)]
    assert both[0] == [3, 15, 28, 40, 53, 65, 78, 90] and both[1][0] == 9
    # windows, too: 4 s, 0.5 s each
    found = [shown(config(), view=number, views=views)[0] for number in range(2)]
    assert found == [0, 87]


def test_three_crops_lie_along_the_longer_side(clip: tuple[Path, Clip]) -> None:
    path, row = clip
    data = config(frames=1)
    dataset = ClipDataset(Manifest(path.parent, [row]), data, split=None, views=Views(1, 3))
    assert len(dataset) == 3
    found = [dataset[0, number].inputs["video"][:, 0] for number in range(3)]
    whole = read_pictures(path, row, [1.75], short_side=SIZE)[0].transpose(2, 0, 1)  # [3, 104, 160]
    for crop, left in zip(found, (0, 28, 56), strict=True):
        np.testing.assert_array_equal(crop, whole[:, :, left : left + SIZE])
    rows = [batch["clip"].tolist() for batch in make_eval_loader(dataset, data)]
    assert rows == [[0, 0], [0]]
    alone = ClipDataset(Manifest(path.parent, [row]), data, split=None)[0, 0].inputs["video"]
    np.testing.assert_array_equal(found[1], alone[:, 0])


@pytest.mark.parametrize("recipe", [DENSE, SEGMENTS])
def test_pictures_given_as_an_array_are_taken_as_from_a_file(
    recipe: dict[str, Any], clip: tuple[Path, Clip], shown: Any, number_in: Any
) -> None:
    path, row = clip
    pictures = torch.from_numpy(read_pictures(path, row, np.arange(100) / 25))
    for given, fps in ((pictures, 25.0), (path, None)):
        _, windows = given_clips(given, config(**recipe), sample_rate=None, fps=fps, span="all")
        ((_, raw),) = windows  # one: the whole clip
        found = [number_in(picture) for picture in raw["video"].transpose(1, 2, 3, 0)]
        assert found == shown(config(**recipe))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"sampling": "dense"}, "stride belongs to sampling: dense, which needs it"),
        ({"stride": 4}, "stride belongs to sampling: dense"),
        ({**DENSE, "seconds": 0.1}, "seconds is a part of the window, but sampling is dense"),
        ({**DENSE, "stride": 0}, "stride"),
    ],
)
def test_what_does_not_go_together_is_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**recipe)


def test_pictures_of_the_whole_clip_do_not_go_with_a_window_of_sound() -> None:
    inputs = {"audio": FbankConfig(), "video": FramesConfig(sampling="segments")}
    with pytest.raises(ValueError, match=r"inputs\.video takes pictures from the whole clip"):
        DataConfig(inputs=inputs)


@pytest.mark.parametrize(("given", "message"), [((0, 1), "clips must"), ((1, 2), "crops is 1")])
def test_views_that_make_no_sense(given: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Views(*given)
