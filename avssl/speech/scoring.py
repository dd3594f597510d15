"""Word and character error rates of transcripts (jiwer), clip by clip and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avssl.optional import need


@dataclass(frozen=True)
class ErrorRates:
    """How wrong transcripts are; rates are shares of the reference, and may be above 1.

    Attributes:
        wer, cer: word and character error rate.
        substitutions, deletions, insertions: of words.
        words, characters: of the references. clips: how many were scored.
        exact: share of clips without any mistake.
    """

    wer: float
    cer: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    characters: int
    clips: int
    exact: float


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    """Score normalised transcripts; mistakes are summed over clips before they are divided.

    Raises:
        ValueError: there is none, or a reference is empty.
    """
    if not references or not all(text.strip() for text in references):
        raise ValueError("error rates need at least one reference, and none that is empty")
    jiwer = need("jiwer", extra="speech", purpose="scoring transcripts")
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    pairs = zip(references, hypotheses, strict=True)
    return ErrorRates(
        wer=words.wer,
        cer=characters.cer,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        words=words.hits + words.substitutions + words.deletions,
        characters=characters.hits + characters.substitutions + characters.deletions,
        clips=len(references),
        exact=sum(a == b for a, b in pairs) / len(references),
    )
