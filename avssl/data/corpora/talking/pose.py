"""The mouth's pose over time: viseme targets, blended by dominance functions.

Coarticulation after Cohen and Massaro, "Modeling coarticulation in synthetic visual speech" (1993):
each sound pulls each part of the mouth towards its target with a weight that falls off
exponentially before and after the sound, faster or slower, stronger or weaker by sound and part.

The numbers of `TARGETS` are [choice]: the standard names the classes, not the shapes.

T frames, Q phones' shapes, K parts of the pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avssl.data.corpora.talking.speech import Phone
from avssl.data.corpora.talking.visemes import NO_SHAPE, SILENCE, VISEMES, VOWELS, split_phone

PARTS = ("opening", "width", "rounding", "press", "tuck", "clench", "tongue", "tip")
OPENING, WIDTH, ROUNDING, PRESS, TUCK, CLENCH, TONGUE, TIP = range(len(PARTS))

# opening between the lips, width (-1 narrow, 1 spread), rounding and protrusion, lips pressed
# together, lower lip under the upper teeth, teeth together, tongue raised, tip between the teeth
TARGETS: dict[int, tuple[float, ...]] = {
    SILENCE: (0.00, 0.0, 0.0, 0.25, 0, 0.0, 0.0, 0),
    1: (0.00, 0.0, 0.0, 1.0, 0, 0.2, 0.0, 0),
    2: (0.16, 0.1, 0.0, 0.0, 1, 0.2, 0.0, 0),
    3: (0.30, 0.1, 0.0, 0.0, 0, 0.0, 1.0, 1),
    4: (0.24, 0.2, 0.0, 0.0, 0, 0.5, 0.9, 0),
    5: (0.36, 0.1, 0.0, 0.0, 0, 0.0, 0.2, 0),
    6: (0.34, -0.5, 0.7, 0.0, 0, 0.9, 0.3, 0),
    7: (0.20, 0.6, 0.0, 0.0, 0, 1.0, 0.3, 0),
    8: (0.34, 0.1, 0.0, 0.0, 0, 0.0, 1.0, 0),
    9: (0.28, -0.4, 0.5, 0.0, 0, 0.2, 0.3, 0),
    10: (1.00, 0.1, 0.0, 0.0, 0, 0.0, 0.0, 0),
    11: (0.62, 0.5, 0.0, 0.0, 0, 0.0, 0.2, 0),
    12: (0.36, 1.0, 0.0, 0.0, 0, 0.2, 0.4, 0),
    13: (0.72, -0.6, 0.7, 0.0, 0, 0.0, 0.0, 0),
    14: (0.22, -1.0, 1.0, 0.0, 0, 0.0, 0.1, 0),
}
# how much a sound insists on each part; vowels and silence insist on all but tongue and teeth alike
_INSISTS: dict[int, dict[int, float]] = {
    1: {OPENING: 8, PRESS: 10, TUCK: 3},
    2: {OPENING: 5, TUCK: 10, PRESS: 4, ROUNDING: 0.5},
    3: {OPENING: 1.5, TONGUE: 6, TIP: 8, PRESS: 3},
    4: {OPENING: 1.2, TONGUE: 5, CLENCH: 1.5, PRESS: 3},
    5: {OPENING: 0.6, TONGUE: 2, PRESS: 3},
    6: {OPENING: 3, WIDTH: 3, ROUNDING: 4, CLENCH: 6, PRESS: 3},
    7: {OPENING: 3, WIDTH: 0.8, CLENCH: 6, PRESS: 3},
    8: {OPENING: 1.0, TONGUE: 5, PRESS: 3},
    9: {OPENING: 1.2, WIDTH: 1.5, ROUNDING: 2, PRESS: 3},
}
_WEAK = 0.25  # of a consonant on what it does not care for
_BEFORE, _AFTER = 0.045, 0.040  # s, fall-off of the weight before and after a sound
_LIPS_BEFORE = 0.075  # s, of rounding and spreading: lips prepare for a vowel early
_HELD = 0.05  # s before a plosive's burst for which its closure is already there
_PLOSIVES = frozenset("p b t d k ɡ tʃ dʒ".split())  # noqa: RUF001


@dataclass(frozen=True)
class _Shape:
    """One target in time, s."""

    viseme: int
    start: float
    end: float
    strength: float  # of a vowel's opening: stressed ones open more


def pose_track(phones: list[Phone], times: np.ndarray, *, effort: float = 1.0) -> np.ndarray:
    """The pose at `times`, s [T]: float64 [T, K] in the order of `PARTS`; at rest elsewhere.

    Args:
        phones: in order of time.
        times: s.
        effort: how far the speaker opens and spreads the mouth; 1 is usual.
    """
    shapes = _shapes(phones)
    targets = np.array([TARGETS[shape.viseme] for shape in shapes])  # [Q, K]
    targets[:, OPENING] *= [shape.strength for shape in shapes]
    targets[:, : ROUNDING + 1] *= effort
    weights = np.array([_insistence(shape.viseme) for shape in shapes])  # [Q, K]
    starts, ends = np.array([(shape.start, shape.end) for shape in shapes]).T  # [Q]
    before = np.full(len(PARTS), _BEFORE)
    before[[WIDTH, ROUNDING]] = _LIPS_BEFORE
    early = np.maximum(starts - times[:, None], 0)[..., None] / before  # [T, Q, K]
    late = np.maximum(times[:, None] - ends, 0)[..., None] / _AFTER
    pull = weights * np.exp(-early - late) + 1e-12
    return (pull * targets).sum(1) / pull.sum(1)


def _insistence(viseme: int) -> np.ndarray:
    if viseme == SILENCE or viseme in VOWELS:
        return np.ones(len(PARTS))
    weights = np.full(len(PARTS), _WEAK)
    for part, weight in _INSISTS[viseme].items():
        weights[part] = weight
    return weights


def _shapes(phones: list[Phone]) -> list[_Shape]:
    """Targets in time: diphthongs move half-way, plosives close before their burst."""
    shapes = [_Shape(SILENCE, -10.0, phones[0].start - 0.08, 1.0)]
    for phone in phones:
        if not phone.ipa:
            if phone.end - phone.start > 0.08:
                shapes.append(_Shape(SILENCE, phone.start + 0.04, phone.end - 0.04, 1.0))
            continue
        symbols = split_phone(phone.ipa)
        strength = 1.0 if "ˈ" in phone.ipa else 0.8  # noqa: RUF001
        edges = np.linspace(phone.start, phone.end, len(symbols) + 1)
        for symbol, start, end in zip(symbols, edges[:-1], edges[1:], strict=True):
            viseme = VISEMES[symbol]
            if viseme == NO_SHAPE:
                continue
            held = _HELD if symbol in _PLOSIVES else 0.0
            vowel = viseme in VOWELS
            inner = 0.25 * (end - start)  # a target is reached inside the sound
            shapes.append(
                _Shape(viseme, start + inner - held, end - inner, strength if vowel else 1.0)
            )
    shapes.append(_Shape(SILENCE, phones[-1].end + 0.1, 1e3, 1.0))
    return shapes
