"""Which face of a clip counts, and when a clip is refused."""

import numpy as np
import pytest

from avssl.data.container import MediaError
from avssl.lips.mesh import Face
from avssl.lips.tracks import speaking_face


def face(x: float, side: float = 50.0) -> Face:
    """A face in row 100 of a picture."""
    return Face(0.9, np.array([x, 100, side, side]), np.array([[x - 10, 90], [x + 10, 90.0]]))


def test_the_largest_face_that_stays_counts() -> None:
    large_but_short, small = face(500, 90), face(20, 30)
    pictures = [[small, face(200 + k)] + [large_but_short] * (k < 3) for k in range(10)]
    chosen = speaking_face(pictures, gap=2)
    assert [one.box[0] for one in chosen] == pytest.approx([200 + k for k in range(10)])


def test_order_of_the_faces_does_not_matter() -> None:
    pictures = [[face(20, 30), face(200)][:: 1 if k % 2 else -1] for k in range(10)]
    assert {one.box[2] for one in speaking_face(pictures, gap=2)} == {50}


def test_two_faces_of_like_size_are_refused() -> None:
    with pytest.raises(MediaError, match="2 faces of like size"):
        speaking_face([[face(50), face(200, 45)]] * 10, gap=2)


def test_short_gaps_are_interpolated_and_long_ones_refused() -> None:
    pictures = [[face(100 + 4 * k)] if k not in (4, 5) else [] for k in range(12)]
    chosen = speaking_face(pictures, gap=2)
    assert [one.box[0] for one in chosen] == pytest.approx([100 + 4 * k for k in range(12)])
    with pytest.raises(MediaError, match="missing in pictures 4 to 5 of 12"):
        speaking_face(pictures, gap=1)


def test_a_face_that_leaves_is_refused() -> None:
    with pytest.raises(MediaError, match="missing in pictures 6 to 9 of 10"):
        speaking_face([[face(100)]] * 6 + [[]] * 4, gap=3)
    with pytest.raises(MediaError, match="seen longest is in 4 of 10"):
        speaking_face([[face(100)]] * 4 + [[]] * 6, gap=3)


def test_a_cut_to_another_face_is_refused() -> None:
    with pytest.raises(MediaError, match=r"missing in pictures|no face stays"):
        speaking_face([[face(100)]] * 6 + [[face(400)]] * 4, gap=3)


def test_no_face_at_all() -> None:
    with pytest.raises(MediaError, match="no face was found"):
        speaking_face([[]] * 5, gap=10)
