"""The sound of a scene: 16 kHz mono, synthesised from the scene's hits and curves."""

from __future__ import annotations

import numpy as np

from avssl.data.corpora.files import SAMPLE_RATE
from avssl.data.corpora.scenes.scene import (
    RATE,
    ROOM_LARGE,
    ROOM_SMALL,
    SECONDS,
    Scene,
    pitch,
    tube_pitch,
)
from avssl.data.corpora.scenes.weather import weather_sound

LENGTH = int(SECONDS * SAMPLE_RATE)
_FFT = 1 << 16  # linear convolution of LENGTH samples with up to one second of room
_TIME = np.arange(LENGTH, dtype=np.float32) / SAMPLE_RATE
_FREQUENCY = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE).astype(np.float32)
_OCTAVES = np.log2(np.maximum(_FREQUENCY, 20) / 62.5)
_BAND_FREQUENCY = np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE).astype(np.float32)


def make_sound(scene: Scene) -> np.ndarray:
    """float32 [LENGTH] within (-1, 1)."""
    rng = np.random.default_rng(scene.microphone.seed)
    return _record(_SOURCES[scene.name](scene, rng), scene, rng)


def _record(dry: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Body, distance, room, microphone and background noise; all but the last as one filter."""
    above = np.maximum(_OCTAVES - np.log2(pitch(scene.radius) / 62.5), 0.0)
    body = np.exp2(-1.5 * (1 - scene.material) * above)  # soft bodies are dull
    air = scene.distance**-2.0 / np.sqrt(1 + (_FREQUENCY * scene.distance**2 / 9000) ** 2)
    colour = 10 ** (np.interp(_OCTAVES, np.arange(8), scene.microphone.colour) / 20)
    path = air + np.fft.rfft(_room(scene, rng)) / scene.distance
    noise = rng.standard_normal(2 * len(_FREQUENCY), dtype=np.float32).view(np.complex64)
    noise *= np.maximum(_FREQUENCY / 500, 0.1) ** -scene.microphone.tilt
    noise *= scene.microphone.level * _FFT / np.sqrt(2) / np.linalg.norm(noise)
    chain = path * (body * colour).astype(np.float32)
    wet = np.fft.irfft(np.fft.rfft(dry.astype(np.float32), _FFT) * chain + noise)[:LENGTH]
    wet += weather_sound(scene.weather, LENGTH, SAMPLE_RATE)
    return (0.95 * np.tanh(wet / 0.95)).astype(np.float32)


def _room(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Reverberation [_FFT]: noise that decays by 60 dB in 0.08 s (closet) to 1.2 s (hall)."""
    depth = (scene.room - ROOM_SMALL) / (ROOM_LARGE - ROOM_SMALL)
    seconds = 0.08 + 1.1 * depth
    length = min(SAMPLE_RATE, int(1.2 * seconds * SAMPLE_RATE))
    decay = np.exp(-6.9 * _TIME[:length] / seconds)
    tail = np.zeros(_FFT, dtype=np.float32)
    tail[:length] = decay * rng.standard_normal(length, dtype=np.float32)
    return tail * (0.3 * (1 + 4 * depth) / np.linalg.norm(decay))


def _tone(phase: np.ndarray, frequency: float, scene: Scene) -> np.ndarray:
    """Partials over a phase in radians; the harder the material, the stronger the upper ones.

    Their spacing (`stretch`: 1 is harmonic) belongs to the body and not to the class.
    """
    out = np.zeros(phase.shape, dtype=np.float32)
    for k in range(1, 6):
        ratio = k**scene.stretch
        if ratio * frequency < 7000:
            out += (0.2 + 0.6 * scene.material) ** (k - 1) * np.sin(ratio * phase)
    return out


def _band(rng: np.random.Generator, frequency: float, sharpness: float) -> np.ndarray:
    """Noise [LENGTH] of unit power around a frequency; a larger sharpness is closer to a tone."""
    noise = np.fft.rfft(rng.standard_normal(LENGTH, dtype=np.float32))
    shape = 1 / (1 + (sharpness * np.log2(np.maximum(_BAND_FREQUENCY, 10) / frequency)) ** 2)
    out = np.fft.irfft(noise * shape, LENGTH)
    return (out / out.std()).astype(np.float32)


def _voice(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The body's steady sound [LENGTH] at its pitch: partials and a share of noise around them."""
    frequency = pitch(scene.radius)
    tone = _tone(2 * np.pi * frequency * _TIME, frequency, scene)
    return (1 - scene.breathy) * tone + scene.breathy * _band(rng, frequency, 4.0)


def _curve(scene: Scene, name: str) -> np.ndarray:
    """A curve of the scene at the sample rate, [LENGTH]."""
    curve = scene.curves[name]
    return np.interp(_TIME, np.arange(len(curve)) / RATE, curve).astype(np.float32)


def _place(out: np.ndarray, piece: np.ndarray, time: float, gain: float) -> None:
    start = round(time * SAMPLE_RATE)
    piece = piece[: LENGTH - start]
    out[start : start + len(piece)] += gain * piece


def _struck(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Bounce and bell: the body rings at each hit, as loud as the hit; metal rings longest."""
    out = np.zeros(LENGTH, dtype=np.float32)
    decay = 0.15 + 0.4 * scene.material
    piece = _voice(scene, rng)[: int(5 * decay * SAMPLE_RATE)]
    piece = piece * np.exp(-_TIME[: len(piece)] / decay)
    knock = rng.standard_normal(240, dtype=np.float32) * np.exp(-_TIME[:240] / 0.003)
    piece[:240] += 0.4 * knock
    for hit in scene.hits:
        _place(out, piece, hit.time, 0.5 * hit.strength)
    return out


def _rolling(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The body's voice and, with speed, a hiss two octaves above; one bump per turn."""
    speed = np.minimum(_curve(scene, "speed") / 2.0, 1.0)
    bumps = 0.6 + 0.4 * np.cos(_curve(scene, "angle"))
    hiss = _band(rng, min(6000.0, 4 * pitch(scene.radius)), 1.5)
    return 0.5 * speed**0.8 * bumps * (_voice(scene, rng) + 0.6 * speed * hiss)


def _dripping(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Each drop: a chirp that rises by a third from the pitch of its bubble, after a splash."""
    out = np.zeros(LENGTH, dtype=np.float32)
    time = _TIME[:16000]
    decay = 0.12 + 0.2 * scene.material
    rising = np.minimum(time, 0.2)
    rise = time + 1.2 * (rising * time - rising**2 / 2)  # to 1.24 times the pitch in 0.2 s
    for hit in scene.hits:
        frequency = pitch(hit.radius)
        phase = 2 * np.pi * frequency * rise
        splash = rng.standard_normal(len(time), dtype=np.float32) * np.exp(-time / 0.02)
        chirp = _tone(phase, 1.3 * frequency, scene) * np.exp(-time / decay)
        _place(out, chirp + (0.1 + 0.3 * scene.breathy) * splash, hit.time, 0.5 * hit.strength)
    return out


def _plucked(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The string's voice under the very envelope that the picture shows."""
    return 0.45 * _curve(scene, "envelope") * _voice(scene, rng)


def _turning(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A hum that swells at each blade passage and grows with the rate."""
    rate, turns = _curve(scene, "rate"), _curve(scene, "turns")
    swell = 0.3 + 0.7 * np.exp(3 * (np.cos(2 * np.pi * scene.numbers["blades"] * turns) - 1))
    return 0.45 * np.minimum(rate / 2.0, 1.1) * swell * _voice(scene, rng)


def _blown(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A pipe whose pitch follows its column, with breath noise."""
    frequency = tube_pitch(_curve(scene, "column"))
    phase = 2 * np.pi * np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE
    hiss = _band(rng, 2 * float(frequency.mean()), 1.0)
    tone = _tone(phase, float(frequency.max()), scene)
    return 0.4 * _curve(scene, "breath") * (tone + 0.3 * scene.breathy * hiss)


def _bursting(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Bursts of noise and ringing at the pitch of each bubble."""
    out = np.zeros(LENGTH, dtype=np.float32)
    time = _TIME[:16000]
    decay = 0.12 + 0.2 * scene.material
    for hit in scene.hits:
        frequency = pitch(hit.radius)
        noise = _band(rng, frequency, 4.0)[: len(time)]
        piece = 0.7 * noise + (1 - scene.breathy) * _tone(
            2 * np.pi * frequency * time, frequency, scene
        )
        _place(out, piece * np.exp(-time / decay), hit.time, 0.4 * hit.strength)
    return out


_SOURCES = {
    "bounce": _struck,
    "bell": _struck,
    "roll": _rolling,
    "drops": _dripping,
    "string": _plucked,
    "rotor": _turning,
    "whistle": _blown,
    "pop": _bursting,
}
