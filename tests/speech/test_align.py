"""Time marks of words, for characters and for SentencePiece pieces."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from avssl.speech.align import unit_frames, words
from avssl.speech.decoding import Hypothesis
from avssl.speech.greedy import greedy
from avssl.speech.units import Units, train_sentencepiece


def scores(path: list[int], units: Units) -> torch.Tensor:
    """CTC scores [1, T, U] that are sure of one unit in each frame."""
    return torch.log(F.one_hot(torch.tensor([path]), len(units)) * 0.9 + 0.1 / len(units))


def test_words_stand_where_their_units_are_said() -> None:
    units = Units.characters("abc ")
    a, b, c, space = (units.encode("a")[0], units.encode("b")[0], units.encode("c")[0], 4)
    path = [0, 0, a, a, 0, b, 0, 0, space, 0, 0, c, 0, c, 0, 0]
    log_probs = scores(path, units)
    (found,) = greedy(log_probs, torch.tensor([16]))
    spoken = words(log_probs[0], found, units, rate=25)
    assert [word.text for word in spoken] == ["ab", "cc"]
    times = [(word.start, word.end) for word in spoken]
    assert times == [(2 / 25, 6 / 25), (11 / 25, 14 / 25)]
    assert all(word.confidence > 0.9 for word in spoken)


def test_words_of_pieces(tmp_path: Path) -> None:
    texts = ["bin blue at f two now", "place red by a one again", "lay white in c six soon"] * 3
    units = train_sentencepiece(texts, tmp_path / "units.model", size=26)
    numbers = units.encode("lay blue soon")
    path = [0, *(unit for number in numbers for unit in (number, 0))]
    log_probs = scores(path, units)
    spoken = words(log_probs[0], greedy(log_probs, torch.tensor([len(path)]))[0], units, rate=25)
    assert [word.text for word in spoken] == ["lay", "blue", "soon"]
    assert spoken[0].start == 1 / 25 or not units.decode(numbers[:1])
    for one, other in itertools.pairwise(spoken):
        assert one.start < one.end <= other.start
    assert spoken[-1].end == (len(path) - 1) / 25


@pytest.mark.parametrize("text", ["", "aabb"])
def test_texts_without_an_alignment(text: str) -> None:
    units = Units.characters("ab")
    numbers = units.encode(text) if text else []
    log_probs = scores([0] * 4, units)
    found = Hypothesis(numbers, 0.0, 0.5, [0.5] * len(numbers))
    spoken = words(log_probs[0], found, units, rate=4)
    assert [(word.text, word.start, word.end) for word in spoken] == [("aabb", 0, 1)] * bool(text)


def test_frames_of_units_are_in_order_and_apart() -> None:
    log_probs = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    spans = unit_frames(log_probs, [1, 2, 2, 3, 4, 4, 1])
    assert len(spans) == 7 and spans[0][0] >= 0 and spans[-1][1] <= 30
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert end <= start
    assert spans[1][1] < spans[2][0] and spans[4][1] < spans[5][0]  # a blank parts repeated units
