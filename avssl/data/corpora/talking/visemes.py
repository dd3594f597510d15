"""Visemes: which speech sounds look alike on the lips.

The fourteen classes are those of MPEG-4 face animation (ISO/IEC 14496-2, "Viseme and related
phonemes": 1 p b m, 2 f v, 3 T D, 4 t d, 5 k g, 6 tS dZ S, 7 s z, 8 n l, 9 r, 10 A:, 11 e,
12 I, 13 Q, 14 U, and 0 for none). The table names one example per vowel class; IPA symbols that it
does not list are put where the lips are most alike: open vowels with A:, mid front and central ones
with e, close front ones and j with I, rounded mid ones with Q, rounded close ones and w with U.
h has no shape of its own and takes that of its neighbours.
"""

# ruff: noqa: RUF001
from __future__ import annotations

MPEG4: dict[int, str] = {
    1: "p b m",
    2: "f v",
    3: "θ ð",
    4: "t d t̪ ɾ ʔ",
    5: "k ɡ g ŋ x",
    6: "tʃ dʒ ʃ ʒ",
    7: "s z",
    8: "n l ɫ",
    9: "ɹ r ɚ",
    10: "a ɑ æ ʌ ɐ",
    11: "e ɛ ə ɜ",
    12: "ɪ i j",
    13: "ɒ ɔ o",
    14: "ʊ u ʉ w ʍ",
}
SILENCE, NO_SHAPE = 0, -1
VISEMES: dict[str, int] = {
    symbol: number for number, symbols in MPEG4.items() for symbol in symbols.split()
} | {"h": NO_SHAPE}
VOWELS = range(10, 15)
_MARKS = "ˈˌː̩ˑ̃"  # stress, length, syllabic, nasal


def split_phone(ipa: str) -> list[str]:
    """The symbols of one espeak phoneme that have a shape of their own: "ˈaɪ" is a, ɪ.

    Raises:
        KeyError: a symbol that the table lacks.
    """
    plain = "".join(sign for sign in ipa if sign not in _MARKS)
    symbols: list[str] = []
    while plain:
        longest = max(
            (symbol for symbol in VISEMES if plain.startswith(symbol)), key=len, default=None
        )
        if longest is None:
            raise KeyError(f"phoneme {ipa!r} has a symbol without a viseme: {plain!r}")
        symbols.append(longest)
        plain = plain[len(longest) :]
    return symbols
