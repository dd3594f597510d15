"""From a clip to words with times, in pieces where it is longer than the model reads at once.

Letters: B pieces, T frames, U units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from avssl.data.batches import finish_inputs, stack_inputs
from avssl.data.length_config import LipsConfig
from avssl.data.lengths import longest_frames
from avssl.speech.align import Word, words
from avssl.speech.clip import SpeechClip
from avssl.speech.decoding import Decoding
from avssl.speech.reader import Reader

_OVERLAP = 1.0  # s that two pieces share, at most


@dataclass(frozen=True)
class Transcript:
    """What was said in a clip.

    Attributes:
        words: with times from the clip's first picture, in seconds.
        confidence: mean of the words'; how sure the search was of silence, where there are none.
        seconds: length of the clip.
    """

    words: list[Word]
    confidence: float
    seconds: float

    @property
    def text(self) -> str:
        """The words in a line."""
        return " ".join(word.text for word in self.words)

    def as_json(self) -> dict[str, Any]:
        """For printing."""
        return {
            "text": self.text,
            "confidence": round(self.confidence, 4),
            "seconds": self.seconds,
            "words": [
                {
                    "text": word.text,
                    "start": round(word.start, 3),
                    "end": round(word.end, 3),
                    "confidence": round(word.confidence, 4),
                }
                for word in self.words
            ],
        }


def transcribe(
    reader: Reader,
    clip: SpeechClip,
    *,
    settings: Decoding | None = None,
) -> Transcript:
    """Read a clip; what it lacks of the inputs of a model of both is done without.

    One that is longer than `data.lengths.longest` of the model is read in pieces of that length,
    evenly spread, which share a second; a word is taken from the piece on whose side of the middle
    of that second its own middle lies, and is cut there.

    Args:
        settings: of the search; None: those stored with the model.
    """
    pieces = list(_pieces(clip.frames, longest_frames(reader.data), clip.rate))
    middles = [(end + start) / 2 for (_, end), (start, _) in itertools.pairwise(pieces)]
    borders = [0, *middles, math.inf]
    found: list[Word] = []
    sure: list[float] = []
    budget = reader.data.lengths.budget if reader.data.lengths else clip.frames
    together = max(1, budget // (pieces[0][1] - pieces[0][0]))
    for first in range(0, len(pieces), together):
        some = pieces[first : first + together]
        read = _read(reader, clip, some, settings or reader.settings)
        for number, (spoken, confidence) in enumerate(read, first):
            start, end = (border / clip.rate for border in borders[number : number + 2])
            sure.append(confidence)
            found += [
                replace(word, start=max(word.start, start), end=min(word.end, end))
                for word in spoken
                if start <= (word.start + word.end) / 2 < end
            ]
    sure = [word.confidence for word in found] or sure
    return Transcript(found, sum(sure) / len(sure), clip.frames / clip.rate)


def _read(
    reader: Reader,
    clip: SpeechClip,
    pieces: list[tuple[int, int]],
    settings: Decoding,
) -> Iterator[tuple[list[Word], float]]:
    """Words of each piece with times in the clip, and how sure the search was."""
    recipes = {name: item for name, item in reader.data.inputs.items() if name in clip.inputs}
    parts = [
        {
            name: clip.inputs[name][:, start:end]
            if isinstance(recipe, LipsConfig)
            else clip.inputs[name][start:end]
            for name, recipe in recipes.items()
        }
        for start, end in pieces
    ]
    with torch.no_grad():
        batch = finish_inputs(stack_inputs(parts, recipes), recipes, reader.device)
        memory, lengths = reader.encode(batch)  # [B, T, D], [B]
        log_probs = reader.ctc(memory)  # [B, T, U]
        hypotheses = reader.search(memory, lengths, log_probs, settings)
    for row, (hypothesis, (start, _)) in enumerate(zip(hypotheses, pieces, strict=True)):
        scores = log_probs[row, : int(lengths[row])]  # [T, U]
        spoken = words(scores, hypothesis, reader.units, rate=clip.rate)
        begin = start / clip.rate
        moved = [Word(w.text, w.start + begin, w.end + begin, w.confidence) for w in spoken]
        yield moved, hypothesis.confidence


def _pieces(frames: int, longest: int, rate: int) -> Iterator[tuple[int, int]]:
    """First frame and the one behind the last of each piece."""
    if frames <= longest:
        yield 0, frames
        return
    overlap = min(round(_OVERLAP * rate), longest // 2)
    count = math.ceil((frames - overlap) / (longest - overlap))
    for start in np.linspace(0, frames - longest, count).round().astype(int).tolist():
        yield start, start + longest
