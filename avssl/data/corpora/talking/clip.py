"""One talking clip: words, voice, face, speech with phone times, and the pose of each frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avssl.data.corpora.files import SAMPLE_RATE
from avssl.data.corpora.talking.face import Face
from avssl.data.corpora.talking.grammar import DIGITS, Sentence, draw_sentences
from avssl.data.corpora.talking.picture import FPS
from avssl.data.corpora.talking.pose import pose_track
from avssl.data.corpora.talking.speech import (
    ACCENTS,
    MEN,
    RATE,
    WOMEN,
    Phone,
    Voice,
    resample,
    speak,
)
from avssl.data.manifest import SPLITS

_STEP = RATE // FPS  # library samples per frame
_AHEAD = 0.015  # s that lips and jaw are ahead of the sound
_LEVEL = 0.08  # root mean square of the speech before the gain


@dataclass(frozen=True)
class Talk:
    """A clip of `frames` frames; T = frames."""

    sentences: tuple[Sentence, ...]
    voice: Voice
    man: bool
    face: Face
    phones: tuple[Phone, ...]  # times in s of the clip
    sound: np.ndarray  # float32 [T * SAMPLE_RATE / FPS]
    pose: np.ndarray  # [T, K]

    @property
    def frames(self) -> int:
        """Pictures."""
        return len(self.pose)

    @property
    def text(self) -> str:
        """The words as they are said."""
        return " ".join(word for sentence in self.sentences for word in sentence)

    @property
    def label(self) -> str:
        """The digit; none where two sentences have two."""
        digits = [word for sentence in self.sentences for word in sentence if word in DIGITS]
        return digits[0] if len(digits) == 1 else ""


def make_talk(split: str, index: int, *, seed: int = 0) -> Talk:
    """Clip `index` of `split`: a function of (seed, split, index) alone. Digits take turns."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 2])
    sentences = draw_sentences(rng, split, DIGITS[index % len(DIGITS)])
    man = bool(rng.integers(2))
    speaker = rng.choice((MEN if man else WOMEN)[split])
    voice = Voice(
        name=f"{rng.choice(ACCENTS)}+{speaker}",
        speed=int(rng.integers(125, 186)),
        pitch=int(rng.integers(30, 71)),
        melody=int(rng.integers(30, 71)),
        tract=float(np.exp(rng.uniform(-0.14, 0.14))),
    )
    face = Face.draw(rng, man=man)
    speech, phones = speak(_spelled(sentences), voice, seed=int(rng.integers(2**31)))
    lead, rest = (int(_silence(rng) * RATE) for _ in range(2))
    frames = -(-(lead + len(speech) + rest) // _STEP)
    shifted = tuple(
        Phone(phone.ipa, phone.start + lead / RATE, phone.end + lead / RATE) for phone in phones
    )
    times = (np.arange(frames) + 0.5) / FPS + _AHEAD  # the middle of each picture's 40 ms
    return Talk(
        sentences=tuple(sentences),
        voice=voice,
        man=man,
        face=face,
        phones=shifted,
        sound=_recorded(rng, speech, lead, frames),
        pose=pose_track(list(shifted), times, effort=face.effort),
    )


def _silence(rng: np.random.Generator) -> float:
    """s before the speech, or behind it: sentences are cut close to it, three ends of four."""
    return rng.uniform(0.08, 0.12) if rng.random() < 0.75 else rng.uniform(0.12, 0.4)


def _spelled(sentences: list[Sentence]) -> str:
    """What the library is told: the letter a as a letter, not as the article."""
    said = [" ".join("[['eI]]" if word == "a" else word for word in words) for words in sentences]
    return ". ".join(said)


def _recorded(rng: np.random.Generator, speech: np.ndarray, lead: int, frames: int) -> np.ndarray:
    """The speech in its clip at 16 kHz, with gain, and noise of room and microphone."""
    line = np.zeros(frames * _STEP, dtype=np.float32)
    line[lead : lead + len(speech)] = speech * (_LEVEL / speech.std())
    count = frames * SAMPLE_RATE // FPS
    octaves = np.log2(np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE) / 500, 0.1))
    colour, tilt = 2 ** (octaves * rng.uniform(-0.3, 0.3)), 2 ** (octaves * -rng.uniform(0, 1))
    sound = np.fft.irfft(np.fft.rfft(resample(line, count)) * colour, count)
    sound *= rng.uniform(0.6, 1.4)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * tilt, count)
    sound += noise * (10 ** rng.uniform(-4, -2.7) / noise.std())
    return np.asarray(0.95 * np.tanh(sound / 0.95), dtype=np.float32)
