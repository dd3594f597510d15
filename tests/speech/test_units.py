"""Units of text: round trips, one form of text, and what has no units."""

import pickle
from pathlib import Path

import pytest

from avssl.errors import UserError
from avssl.speech.units import UnitError, Units, train_sentencepiece

LATIN = "abcdefghijklmnopqrstuvwxyz' "
ARABIC = "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأؤإئىة "
WORDS = "bin lay place set blue green red white at by in with now please soon again".split()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Units:
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:4]]
    return train_sentencepiece(texts, tmp_path_factory.mktemp("units") / "units.model", size=30)


@pytest.mark.parametrize(
    ("alphabet", "text", "same"),
    [
        (LATIN, "bin blue at f two now", "bin blue at f two now"),
        (LATIN, "  It's\n\tSOON ", "it's soon"),
        (LATIN.upper(), "it's soon", "IT'S SOON"),
        (LATIN + LATIN.upper()[:26], "Bin Blue", "Bin Blue"),
        (ARABIC, "السلام  عليكم", "السلام عليكم"),
        (ARABIC, "\ufefb \ufee3\ufefc", "لا ملا"),  # presentation forms of letters
        ("café ", "cafe\u0301", "café"),  # a letter and its accent apart
        ("ab ", "\uff41\uff42", "ab"),  # full width
    ],
)
def test_characters_come_back(alphabet: str, text: str, same: str) -> None:
    units = Units.characters(alphabet)
    found = units.encode(text)
    assert units.decode(found) == same
    assert len(units) == len(alphabet) + 2
    assert all(units.blank < unit < units.end for unit in found)
    assert units.decode([units.end, 0, *found, 0, units.end]) == same


def test_punctuation_that_is_no_character_makes_no_unit() -> None:
    units = Units.characters("abcdefghijklmnopqrstuvwxyz' ")
    assert units.normalise("Hello, world!  Don\u2019t -- re-read.") == "hello world don't re read"
    assert units.decode(units.encode("Well, no.")) == "well no"
    with pytest.raises(ValueError, match="'1'"):
        units.encode("1, 2")
    assert Units.characters("ab,").encode("a,b") == [1, 3, 2]


def test_the_order_of_the_alphabet_is_that_of_the_units() -> None:
    assert Units.characters("ba ").encode("ab a") == [2, 1, 3, 2]


def test_pieces_come_back_and_are_the_same_when_trained_again(
    pieces: Units, tmp_path: Path
) -> None:
    for text in ("bin blue at", "please again", "wander"):
        found = pieces.encode(text.upper())
        assert pieces.decode(found) == text
        assert all(0 < unit < pieces.end for unit in found)
    assert len(pieces.encode("bin blue")) < len("bin blue")
    assert len(pieces) == 30 + 2
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:4]]
    assert train_sentencepiece(texts, tmp_path / "again.model", size=30) == pieces
    assert pickle.loads(pickle.dumps(pieces)).encode("bin") == pieces.encode("bin")


@pytest.mark.parametrize("text", ["", " \n ", "seven7", "7"])
def test_text_without_units_is_refused(pieces: Units, text: str) -> None:
    for units in (Units.characters(LATIN), pieces):
        with pytest.raises(UnitError):
            units.encode(text)


def test_numbers_that_are_no_units_are_refused() -> None:
    units = Units.characters("ab ")
    with pytest.raises(ValueError, match="5 is none of the 5 units"):
        units.decode([1, 5])


@pytest.mark.parametrize(
    ("alphabet", "said"),
    [("", "no character"), (" ", "no character"), ("aba ", "twice"), ("aﬁ", "NFKC")],
)
def test_alphabets_that_make_no_sense_are_refused(alphabet: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Units.characters(alphabet)


def test_models_that_cannot_be_read_or_made_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="no SentencePiece model"):
        Units.sentencepiece(tmp_path / "x.model")
    with pytest.raises(UserError, match="cannot be read"):
        Units.sentencepiece(tmp_path / "y.model")
    for size, said in ((3, "at least"), (5000, "at most")):
        with pytest.raises(UserError, match=said):
            train_sentencepiece(WORDS, tmp_path / "z.model", size=size)
        assert not (tmp_path / "z.model").exists()
    with pytest.raises(UserError, match="no text"):
        train_sentencepiece([" "], tmp_path / "z.model", size=30)
