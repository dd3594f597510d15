"""Speech with phone times, by the library espeak-ng through ctypes.

espeak-ng is called and not shipped (GPL-3); the package espeakng-loader carries library and voices.
"""

from __future__ import annotations

import _ctypes
import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from avssl.optional import need

RATE = 22050  # of the library
ACCENTS = (
    "en-us",
    "en",
    "en-us-nyc",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
)
# speakers of the library, by split and sex; the pitch is drawn around each one's own
MEN = {
    "train": "m1 m2 m3 m4 m6 m7 adam edward john max miguel norbert robert Andy".split(),
    "val": "m5 quincy Gene".split(),
    "test": "m8 Lee rob".split(),
}
WOMEN = {
    "train": "f1 f2 f3 Annie linda belinda shelby grandma".split(),
    "val": "f5 aunty".split(),
    "test": "f4 Andrea".split(),
}

_SYNCHRONOUS, _EVENTS, _IPA, _NO_EXIT = 2, 1, 2, 0x8000
_SPEED, _PITCH, _RANGE = 1, 3, 4
_UTF8, _MARKED_PHONEMES = 1, 0x100
_END_OF_LIST, _PHONEME = 0, 7


@dataclass(frozen=True)
class Voice:
    """Who speaks and how."""

    name: str  # accent+speaker
    speed: int  # words per minute
    pitch: int  # 0 to 99, 50 is the speaker's own
    melody: int  # range of the pitch, 0 to 99
    tract: float = 1.0  # length of the vocal tract over the speaker's own: formants and pitch / it


@dataclass(frozen=True)
class Phone:
    """One speech sound: IPA as espeak-ng writes it, from `start` to `end` in s."""

    ipa: str
    start: float
    end: float


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def loader() -> Any:
    """The package that knows where the library is.

    Raises:
        UserError: it is not installed.
    """
    return need("espeakng_loader", extra="speech", purpose="speech for the corpus 'talking'")


def speak(text: str, voice: Voice, *, seed: int) -> tuple[np.ndarray, list[Phone]]:
    """Sound, float32 [S] at `RATE` within (-1, 1), and its phones in order; "" is a pause.

    `text` may hold phonemes in the library's own notation: [['eI]].
    The library keeps state from one sentence to the next, so each call loads it anew (10 ms): the
    same text, voice and seed give the same samples.
    """
    package = loader()
    library = ctypes.CDLL(package.get_library_path())
    pieces: list[np.ndarray] = []
    marks: list[tuple[int, str]] = []

    def collect(wave: Any, count: int, events: Any) -> int:
        if wave and count:
            pieces.append(np.ctypeslib.as_array(wave, (count,)).astype(np.float32) / 32768)
        position = 0
        while events[position].type != _END_OF_LIST:
            event = events[position]
            if event.type == _PHONEME:
                marks.append((event.sample, event.id.string.decode()))
            position += 1
        return 0

    try:
        folder = package.get_data_path().encode()
        library.espeak_Initialize(_SYNCHRONOUS, 0, folder, _EVENTS | _IPA | _NO_EXIT)
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        callback = _CALLBACK(collect)
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.name.encode()):
            raise ValueError(f"espeak-ng has no voice {voice.name!r}")
        speed = round(voice.speed * voice.tract)  # stretched below
        settings = {_SPEED: speed, _PITCH: voice.pitch, _RANGE: voice.melody}
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, value, 0)
        line = text.encode()
        flags = _UTF8 | _MARKED_PHONEMES
        library.espeak_Synth(line, len(line) + 1, 0, 1, 0, flags, None, None)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    said = np.concatenate(pieces)
    sound = resample(said, round(len(said) * voice.tract)).astype(np.float32)
    ends = [start for start, _ in marks[1:]] + [len(said)]
    rate = RATE * len(said) / len(sound)
    phones = [
        Phone(ipa, start / rate, end / rate)
        for (start, ipa), end in zip(marks, ends, strict=True)
        if end > start
    ]
    return sound, phones


def resample(wave: np.ndarray, count: int) -> np.ndarray:
    """The whole of a wave in `count` samples, [count], without what these cannot hold."""
    return np.fft.irfft(np.fft.rfft(wave), count) * (count / len(wave))
