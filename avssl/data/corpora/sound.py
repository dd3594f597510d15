"""The sound of a scene: 16 kHz mono, synthesised from the scene's hits and curves."""

from __future__ import annotations

import numpy as np

from avssl.data.corpora.scene import RATE, SECONDS, Scene, pitch, tube_pitch

SAMPLE_RATE = 16000
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
    """Distance (level and air low-pass), room, microphone colour, background noise; all but the last as one filter."""
    gain = scene.distance**-2.0
    air = 1 / np.sqrt(1 + (_FREQUENCY * scene.distance**2 / 9000) ** 2)
    colour = 10 ** (
        np.interp(_OCTAVES, np.arange(8), scene.microphone.colour).astype(np.float32) / 20
    )
    seconds = 0.06 + 0.25 * (scene.room - 2.2)  # decay by 60 dB
    tail = np.zeros(_FFT, dtype=np.float32)
    length = min(SAMPLE_RATE, int(1.2 * seconds * SAMPLE_RATE))
    decay = np.exp(-6.9 * _TIME[:length] / seconds)
    tail[:length] = (
        0.2
        * decay
        * rng.standard_normal(length, dtype=np.float32)
        / np.sqrt(np.square(decay).sum())
    )
    tail *= 1 + 2 * (scene.room - 2.2) / 3.7
    room = gain * air + np.fft.rfft(tail) / scene.distance
    noise = rng.standard_normal(2 * len(_FREQUENCY), dtype=np.float32).view(np.complex64)
    noise *= np.maximum(_FREQUENCY / 500, 0.1) ** -scene.microphone.tilt
    noise *= scene.microphone.level * _FFT / np.sqrt(2) / np.linalg.norm(noise)
    wet = np.fft.irfft(np.fft.rfft(dry.astype(np.float32), _FFT) * room * colour + noise)[:LENGTH]
    return (0.95 * np.tanh(wet / 0.95)).astype(np.float32)


def _ring(frequency: float, material: float, rng: np.random.Generator) -> np.ndarray:
    """One strike [n]: partials from harmonic-poor wood to inharmonic, long-ringing metal."""
    wood, metal = np.array([1.0, 2.57, 4.7, 7.1]), np.array([1.0, 1.98, 3.01, 4.2])
    ratios = wood + (metal - wood) * material
    decays = (0.05 + 0.55 * material**1.5) * (600 / frequency) ** 0.25 / ratios**0.5
    levels = (0.12 + 0.6 * material) ** np.arange(4)
    time = _TIME[: int(min(1.5, 5 * decays[0]) * SAMPLE_RATE)]
    out = np.zeros(len(time), dtype=np.float32)
    for ratio, decay, level in zip(ratios, decays, levels, strict=True):
        if frequency * ratio < 7000:
            out += level * np.exp(-time / decay) * np.sin(2 * np.pi * frequency * ratio * time)
    knock = rng.standard_normal(160, dtype=np.float32) * np.exp(-_TIME[:160] / 0.002)
    out[:160] += (0.1 + 0.4 * material) * knock
    return out


def _place(out: np.ndarray, piece: np.ndarray, time: float, gain: float) -> None:
    start = round(time * SAMPLE_RATE)
    piece = piece[: LENGTH - start]
    out[start : start + len(piece)] += gain * piece


def _struck(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Bounce and bell: the same body rings at each hit, as loud as the hit is hard."""
    out = np.zeros(LENGTH, dtype=np.float32)
    piece = _ring(pitch(scene.radius), scene.material, rng)
    for hit in scene.hits:
        _place(out, piece, hit.time, 0.5 * hit.strength)
    return out


def _curve(scene: Scene, name: str) -> np.ndarray:
    """A curve of the scene at the sample rate, [LENGTH]."""
    curve = scene.curves[name]
    return np.interp(_TIME, np.arange(len(curve)) / RATE, curve).astype(np.float32)


def _band(rng: np.random.Generator, frequency: float, sharpness: float) -> np.ndarray:
    """Noise [LENGTH] of unit power around a frequency; a larger sharpness is closer to a tone."""
    noise = np.fft.rfft(rng.standard_normal(LENGTH, dtype=np.float32))
    shape = 1 / (1 + (sharpness * np.log2(np.maximum(_BAND_FREQUENCY, 10) / frequency)) ** 2)
    out = np.fft.irfft(noise * shape, LENGTH)
    return (out / out.std()).astype(np.float32)


def _rolling(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Friction noise: the body's resonance, and a hiss an octave and more above that comes in with speed."""
    speed = np.minimum(_curve(scene, "speed") / 2.0, 1.0)
    angle = _curve(scene, "angle")
    low = _band(rng, pitch(scene.radius), 6.0)
    high = _band(rng, min(6000.0, 4 * pitch(scene.radius)), 1.5)
    bumps = 0.55 + 0.45 * np.cos(angle)  # one bump per turn
    return 0.55 * speed**0.8 * bumps * (low + (0.2 + scene.material) * speed * high)


def _dripping(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Each drop: a short chirp that rises by half an octave from the pitch of its bubble, after a faint splash."""
    out = np.zeros(LENGTH, dtype=np.float32)
    time = _TIME[:5600]
    decay = 0.05 + 0.07 * scene.material
    for hit in scene.hits:
        phase = pitch(hit.radius) * (time + 0.04 * time / 0.06 * np.minimum(time, 0.12))
        chirp = np.sin(2 * np.pi * phase) * np.exp(-time / decay) * np.minimum(1.0, time / 0.003)
        splash = rng.standard_normal(len(time), dtype=np.float32) * np.exp(-time / 0.02)
        _place(
            out,
            (chirp + (0.05 + 0.15 * scene.material) * splash).astype(np.float32),
            hit.time,
            0.6 * hit.strength,
        )
    return out


def _plucked(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Harmonics under the very envelope that the picture shows; metal strings are brighter."""
    frequency, phase = pitch(scene.radius), rng.uniform(0, 6.28, 8)
    envelope = _curve(scene, "envelope")
    out = np.zeros(LENGTH, dtype=np.float32)
    for k in range(1, 9):
        if k * frequency < 7000:
            level = (0.3 + 0.55 * scene.material) ** (k - 1)
            out += level * np.sin(2 * np.pi * k * frequency * _TIME + phase[k - 1]).astype(
                np.float32
            )
    return 0.35 * envelope * out


def _turning(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A hum that swells at each blade passage; its level grows with the rate, its edge with the material."""
    rate, turns = _curve(scene, "rate"), _curve(scene, "turns")
    frequency = pitch(scene.radius)
    swell = np.exp(3 * (np.cos(2 * np.pi * scene.numbers["blades"] * turns) - 1))
    phase = 2 * np.pi * frequency * _TIME
    hum = (
        np.sin(phase)
        + (0.1 + 0.6 * scene.material) * np.sin(2 * phase + 1)
        + 0.4 * _band(rng, frequency, 3.0)
    )
    return 0.3 * np.minimum(rate / 2.0, 1.1) * swell * hum


def _blown(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A closed pipe (odd harmonics) with breath noise."""
    frequency, breath = tube_pitch(_curve(scene, "column")), _curve(scene, "breath")
    phase = 2 * np.pi * np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE
    tone = np.sin(phase) + (0.03 + 0.5 * scene.material) * np.sin(3 * phase) * (
        3 * frequency < 7000
    )
    hiss = _band(rng, 3000.0, 0.8)
    return 0.35 * breath * (tone + 0.08 * hiss)


def _bursting(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A burst of noise around the pitch of the bubble."""
    out = np.zeros(LENGTH, dtype=np.float32)
    decay = 0.04 + 0.12 * scene.material
    for hit in scene.hits:
        piece = _band(rng, pitch(hit.radius), 7.0 - 4.0 * scene.material)[:9600] * np.exp(
            -_TIME[:9600] / decay
        )
        _place(out, piece, hit.time, 0.4 * hit.strength)
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
