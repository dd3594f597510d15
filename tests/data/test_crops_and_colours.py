"""Random crops and colours: where and how large, how often, and alike in all pictures of a clip."""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from avssl.data.augment import Box, coloured, draw_box
from avssl.data.config import FramesConfig

SIZE = (256, 340)  # height and width; a quarter of what is left over is a whole number of pixels
SCALES = [1.0, 0.875, 0.75, 0.66]
SIDES = [256, 224, 192, 168]  # int(256 * 0.66) is 168
# TSN's fixed offsets in steps of a quarter of what is left over: right, down
PLACES = {(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0),
          (1, 1), (3, 1), (1, 3), (3, 3)}  # fmt: skip
JITTER = [0.4, 0.4, 0.2, 0.1]


def boxes(recipe: FramesConfig, size: tuple[int, int], count: int) -> Iterator[Box]:
    random = np.random.default_rng(0)
    return (draw_box(size, recipe, random) for _ in range(count))


def test_multi_scale_crops_have_sides_at_most_a_step_apart() -> None:
    found = Counter((h, w) for _, _, h, w in boxes(FramesConfig(scales=SCALES), SIZE, 4000))
    steps = [(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1]
    assert set(found) == {(SIDES[i], SIDES[j]) for i, j in steps} and len(found) == 10
    for times in found.values():  # each a tenth
        assert times == pytest.approx(400, abs=80)


def test_multi_scale_crops_lie_at_13_places() -> None:
    found: Counter[tuple[int, int]] = Counter()
    for top, left, h, w in boxes(FramesConfig(scales=SCALES), SIZE, 8000):
        if h < SIZE[0]:
            right, down = 4 * left / (SIZE[1] - w), 4 * top / (SIZE[0] - h)
            assert right.is_integer() and down.is_integer()
            found[int(right), int(down)] += 1
    assert set(found) == PLACES
    for times in found.values():
        assert times / found.total() == pytest.approx(1 / 13, abs=0.02)


@pytest.mark.parametrize("area", [[0.08, 1.0], [0.2, 1.0], [0.2, 0.3]])
def test_crops_of_an_area_keep_to_its_bounds_and_those_of_the_aspect(area: list[float]) -> None:
    side = 400
    shares, ratios = [], []
    for top, left, h, w in boxes(FramesConfig(area=area), (side, side), 3000):
        assert top >= 0 and left >= 0 and top + h <= side and left + w <= side
        shares.append(h * w / side**2)
        ratios.append(w / h)
    assert min(shares) > area[0] * 0.99 and max(shares) < min(area[1] * 1.01, 1.0)
    assert min(ratios) > 0.74 and max(ratios) < 1.35  # 3/4 and 4/3, in whole pixels
    # and use all of them
    assert min(shares) == pytest.approx(area[0], abs=0.01)
    assert max(shares) == pytest.approx(area[1], abs=0.06)
    assert min(ratios) < 0.76 and max(ratios) > 1.31
    assert np.log(ratios).mean() == pytest.approx(0.0, abs=0.02)  # wide as often as high
    if area[1] < 0.5:  # nothing is drawn anew: uniform
        assert np.mean(shares) == pytest.approx(sum(area) / 2, abs=0.003)


def test_where_no_crop_of_the_area_fits_it_is_the_largest_of_the_middle() -> None:
    recipe = FramesConfig(area=[0.9, 1.0])
    assert set(boxes(recipe, (30, 400), 20)) == {(0, (400 - 40) // 2, 30, 40)}
    assert set(boxes(recipe, (400, 30), 20)) == {((400 - 40) // 2, 0, 40, 30)}


def noise(pictures: int, side: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (pictures, side, side, 3), np.uint8)


def test_all_pictures_of_a_clip_have_the_same_colours_drawn() -> None:
    """A picture becomes the same beside others as alone."""
    recipe = FramesConfig(jitter=JITTER, grey=0.2, blur=0.5, solarise=0.2)
    clip, changed = noise(4, 32), 0
    for seed in range(20):
        whole = coloured(clip, recipe, np.random.default_rng(seed))
        assert whole.shape == clip.shape and whole.dtype == np.uint8
        for number in range(4):
            alone = coloured(clip[number : number + 1], recipe, np.random.default_rng(seed))
            assert np.array_equal(whole[number], alone[0])
        changed += not np.array_equal(whole, clip)
    assert changed > 10


@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        (FramesConfig(jitter=JITTER), 0.8),
        (FramesConfig(jitter=JITTER, jitter_share=0.3), 0.3),
        (FramesConfig(grey=0.2), 0.2),
        (FramesConfig(solarise=0.2), 0.2),
        (FramesConfig(jitter=JITTER, jitter_share=0.0), 0.0),
    ],
)
def test_as_many_clips_change_as_the_recipe_says(recipe: FramesConfig, share: float) -> None:
    random, clip, count = np.random.default_rng(2), noise(1, 8), 500
    changed = sum(not np.array_equal(coloured(clip, recipe, random), clip) for _ in range(count))
    spread = math.sqrt(share * (1 - share) / count)
    assert changed / count == pytest.approx(share, abs=3.5 * spread)


def test_brightness_changes_by_no_more_than_the_recipe_says() -> None:
    random, clip = np.random.default_rng(3), np.full((1, 4, 4, 3), 100, np.uint8)
    recipe = FramesConfig(jitter=[0.4, 0.0, 0.0, 0.0], jitter_share=1.0)
    found = [int(coloured(clip, recipe, random)[0, 0, 0, 0]) for _ in range(300)]
    assert 59 <= min(found) < 64 and 136 < max(found) <= 140
