"""Crops are upright, of one scale and centred on the mouth, whatever the head does."""

import numpy as np
import pytest

from avssl.lips.align import mean_face, placed, similarity, smoothed
from avssl.lips.points import FIVE, MOUTH, grouped
from avssl.lips.warp import cut_out


def turned(
    points: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]
) -> np.ndarray:
    """Points turned clockwise around the origin, scaled and shifted."""
    angle = np.deg2rad(degrees)
    matrix = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return scale * points @ np.transpose(matrix) + shift


def test_the_mean_face_is_symmetric_and_its_mouth_half_a_crop_wide() -> None:
    mean = mean_face()
    assert mean[54] - mean[48] == pytest.approx([48, 0])
    assert mean[36] + mean[45] == pytest.approx([255, 2 * mean[36, 1]])
    assert mean[8, 1] > mean[MOUTH, 1].mean() > mean[33, 1] > mean[36, 1]


def test_similarity_gives_back_a_rotation_with_scale() -> None:
    points = np.random.default_rng(0).normal(size=(8, 2))
    found = similarity(points, turned(points, 30, 1.7, (5, -3)))
    assert found @ (1, 0) == pytest.approx(1.7 * np.array([np.cos(np.pi / 6), 0.5]))
    assert np.linalg.det(found) == pytest.approx(1.7**2)


@pytest.mark.parametrize("scheme", [68, 5])
def test_turned_faces_are_placed_where_upright_ones_are(scheme: int) -> None:
    mean = mean_face()
    true = np.stack([turned(mean, 3 * k, 1 + k / 10, (10 * k, 20)) for k in range(3)])
    for one in true:
        still = np.stack([one if scheme == 68 else grouped(one, FIVE)] * 4)
        where = placed(still)
        inside = where.in_crop(np.stack([one] * 4))
        assert inside[0] == pytest.approx(mean - mean[MOUTH].mean(0) + 47.5, abs=1e-6)


def test_smoothing_keeps_the_place_and_calms_the_shape() -> None:
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(0, 5, (40, 1, 2)), 0)
    noisy = mean_face() + path + rng.normal(0, 1, (40, 68, 2))
    smooth = smoothed(noisy)
    assert smooth.mean(1) == pytest.approx(noisy.mean(1))
    shape = smooth - smooth.mean(1, keepdims=True)
    before = noisy - noisy.mean(1, keepdims=True)
    assert shape[6:-6].std(0).mean() < 0.4 * before[6:-6].std(0).mean()


def test_smoothing_is_not_late() -> None:
    rng = np.random.default_rng(0)
    growing = mean_face() + np.arange(40)[:, None, None] * rng.normal(0, 1, (68, 2))
    assert smoothed(growing) == pytest.approx(growing)


def test_a_cut_square_is_the_picture_where_nothing_is_turned() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    middles = np.array([[20.5, 15.5], [30.5, 20.5]])
    cut = cut_out(pictures, middles, np.stack([np.eye(2)] * 2), 8)
    assert np.abs(cut[0].transpose(1, 2, 0) - pictures[0, 12:20, 17:25]).max() < 1e-2
    assert np.abs(cut[1].transpose(1, 2, 0) - pictures[1, 17:25, 27:35]).max() < 1e-2


def test_beyond_the_picture_its_edge_goes_on() -> None:
    pictures = np.zeros((1, 10, 10, 3), np.uint8)
    pictures[:, :, 9] = 200
    cut = cut_out(pictures, np.array([[14.0, 4.5]]), np.eye(2)[None], 6)
    assert cut == pytest.approx(200)
