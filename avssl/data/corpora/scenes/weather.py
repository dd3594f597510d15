"""The weather over a scene, seen and heard at once: rain, wind and night (the room is a courtyard).

Each is one number from 0 to 1, drawn independently of the event class. Rain is falling streaks and
a hiss, both as dense as it rains; wind carries dust sideways and rumbles, both in the same gusts;
at night the courtyard is dark, so that glowing bodies light it, and crickets sing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RAIN_BAND, WIND_BAND = 3000.0, 250.0  # Hz: the hiss lies above, the rumble below
CRICKETS = 4600.0  # Hz, their pitch; 2.7 chirps per second
LOUDEST = 0.025  # amplitude of a downpour and of a storm
GUSTS = 8  # knots of the gust curve over the clip
STREAK = 7  # pixels that a drop or a grain covers in one exposure


@dataclass(frozen=True)
class Weather:
    """How hard it rains, how strong the wind blows, how dark it is: each 0 .. 1.

    `gusts` are factors of the wind, at GUSTS even times of the clip.
    """

    seed: int
    rain: float
    wind: float
    night: float
    gusts: tuple[float, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Weather:
        """Random weather."""
        rain, wind, night = (float(value) for value in rng.uniform(size=3))
        gusts = tuple(float(value) for value in rng.uniform(0.4, 1.0, GUSTS))
        return cls(int(rng.integers(2**31)), rain, wind, night, gusts)

    @property
    def text(self) -> str:
        """The weather in words."""
        rain = ("dry", "drizzle", "rain", "downpour")[min(3, int(4 * self.rain))]
        wind = ("calm", "breeze", "wind", "storm")[min(3, int(4 * self.wind))]
        time = ("noon", "afternoon", "dusk", "night")[min(3, int(4 * self.night))]
        return f"{time}, {rain}, {wind}"

    def gust(self, place: np.ndarray) -> np.ndarray:
        """Strength of the wind at places 0 .. 1 of the clip."""
        return self.wind * np.interp(place, np.linspace(0, 1, GUSTS), self.gusts)


def add_weather(frames: np.ndarray, weather: Weather) -> np.ndarray:
    """Paint rain and dust: uint8 [K, H, W, 3] in and out, K pictures."""
    rng = np.random.default_rng(weather.seed)
    count, height, width = frames.shape[:3]
    rain = _streaks(rng, (3 * height, width), 0.03 * weather.rain, axis=0)
    dust = _streaks(rng, (height, 3 * width), 0.018, axis=1)
    gusts = weather.gust(np.linspace(0, 1, count))
    fallen = rng.integers(0, 2 * height, count)
    drift = np.cumsum(1 + 14 * gusts).astype(int) % (2 * width)
    opacity = (127 * np.minimum(1.2 * gusts, 1.0)).astype(np.int16)  # of 128
    out = frames.astype(np.int16)
    shade = np.array([215, 170, 80], dtype=np.int16)
    for k, frame in enumerate(out):
        frame += ((255 - frame) >> 1) * rain[fallen[k] : fallen[k] + height]
        grains = dust[:, drift[k] : drift[k] + width]
        frame += ((shade - frame) * opacity[k] >> 7) * grains
    return out.astype(np.uint8)


def _streaks(
    rng: np.random.Generator, shape: tuple[int, int], density: float, axis: int
) -> np.ndarray:
    """Where streaks along an axis are: int16 [*shape, 1] of 0 and 1, by starts per pixel."""
    starts = rng.random(shape) < density
    streaks = np.logical_or.reduce([np.roll(starts, shift, axis=axis) for shift in range(STREAK)])
    return streaks[..., None].astype(np.int16)


def weather_sound(weather: Weather, samples: int, rate: int) -> np.ndarray:
    """float32 [samples]: hiss, rumble and crickets."""
    rng = np.random.default_rng(weather.seed + 1)
    frequency = np.fft.rfftfreq(samples, 1 / rate).astype(np.float32)
    noise = np.fft.rfft(rng.standard_normal((2, samples), dtype=np.float32))
    hiss = np.fft.irfft(noise[0] / (1 + (RAIN_BAND / np.maximum(frequency, 1)) ** 4), samples)
    rumble = np.fft.irfft(noise[1] / (1 + (frequency / WIND_BAND) ** 4), samples)
    time = np.arange(samples, dtype=np.float32) / rate
    gusts = weather.gust(time * rate / samples)
    chirps = np.maximum(np.sin(2 * np.pi * (2.7 * time + rng.uniform())), 0.0) ** 2
    song = chirps * np.sin(2 * np.pi * CRICKETS * time) * np.sin(2 * np.pi * 30 * time)
    sound = _level(weather.rain) * hiss / hiss.std() + _level(gusts) * rumble / rumble.std()
    sound += _level(weather.night) * song / song.std()
    return sound.astype(np.float32)


def _level(strength: np.ndarray | float) -> np.ndarray:
    """Amplitude of a strength 0 .. 1: silence, then 26 dB up to LOUDEST."""
    return LOUDEST / 19 * (20.0 ** np.asarray(strength, dtype=np.float32) - 1)
