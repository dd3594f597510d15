"""Sentences in the form of the GRID corpus (Cooke et al., JASA 120, 2006), and parts of them.

verb, colour, preposition, letter, digit, adverb: "place red by t nine now". Most are whole; some
are parts that keep preposition, letter and digit, and some clips hold two sentences.
"""

from __future__ import annotations

import hashlib

import numpy as np

VERBS = ("bin", "lay", "place", "set")
COLOURS = ("blue", "green", "red", "white")
PREPOSITIONS = ("at", "by", "in", "with")
LETTERS = tuple("abcdefghijklmnopqrstuvxyz")  # w has three syllables
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ADVERBS = ("again", "now", "please", "soon")
SLOTS = (VERBS, COLOURS, PREPOSITIONS, LETTERS, DIGITS, ADVERBS)

PARTS = ((0, 5), (1, 5), (1, 6), (2, 5), (2, 6))  # slots of a part: from, up to
_KEPT = slice(2, 5)  # the slots that every part has
PART_SHARE, PAIR_SHARE = 0.28, 0.12  # of the clips; the others hold one whole sentence

Sentence = tuple[str, ...]


def split_of(preposition: str, letter: str, digit: str) -> str:
    """The only split that says these three in a row: 80% train, 10% val, 10% test.

    Every sentence and part has them, so nothing said in one split is a part of what another says.
    """
    words = f"{preposition} {letter} {digit}"
    share = int(hashlib.sha256(words.encode()).hexdigest()[:8], 16) % 10
    return {8: "val", 9: "test"}.get(share, "train")


def draw_sentences(rng: np.random.Generator, split: str, digit: str) -> list[Sentence]:
    """The sentences of one clip: one that names `digit`, or two, the first of which does."""
    kind = rng.uniform()
    if kind < PAIR_SHARE:
        other = str(rng.choice(DIGITS))
        return [_draw(rng, split, digit, (0, 6)), _draw(rng, split, other, _part(rng))]
    return [_draw(rng, split, digit, _part(rng) if kind < PAIR_SHARE + PART_SHARE else (0, 6))]


def _part(rng: np.random.Generator) -> tuple[int, int]:
    return PARTS[rng.integers(len(PARTS))]


def _draw(rng: np.random.Generator, split: str, digit: str, slots: tuple[int, int]) -> Sentence:
    while True:  # one try in ten succeeds for val and test
        words = [str(rng.choice(words)) for words in SLOTS]
        words[4] = digit
        if split_of(*words[_KEPT]) == split:
            return tuple(words[slots[0] : slots[1]])
