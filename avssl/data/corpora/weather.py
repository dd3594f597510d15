"""The weather over a scene, seen and heard at once: rain, wind and night.

The room is a courtyard. Each is one number from 0 to 1, drawn independently of the event class.
Rain is falling streaks and a hiss, both as dense as it rains; wind carries dust sideways and
rumbles, both in the same gusts; at night it is dark and crickets sing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RAIN_BAND, WIND_BAND, CRICKET = 2500.0, 300.0, 4600.0  # Hz: above, below, pitch
GUSTS = 8  # knots of the gust curve over the clip


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
    """Darken by night, then paint rain and dust: uint8 [K, H, W, 3] in and out, K pictures."""
    rng = np.random.default_rng(weather.seed)
    count, height, width = frames.shape[:3]
    out = frames.astype(np.float32)
    out *= np.array([1 - 0.75 * weather.night, 1 - 0.7 * weather.night, 1 - 0.55 * weather.night])
    drops = rng.random((2 * height, width)) < 0.03 * weather.rain
    rain = sum(np.roll(drops, shift, axis=0) for shift in range(7)).astype(np.float32)
    grains = rng.random((height, 2 * width)) < 0.02
    dust = sum(np.roll(grains, shift, axis=1) for shift in range(7)).astype(np.float32)
    gusts = weather.gust(np.linspace(0, 1, count))
    drift = np.cumsum(1 + 14 * gusts).astype(int)
    starts = rng.integers(0, 2 * height, count)
    shade = np.array([215.0, 170.0, 80.0], dtype=np.float32)
    for k in range(count):
        fallen = np.roll(rain, starts[k], axis=0)[:height]
        out[k] += (120 * fallen)[..., None]
        blown = np.roll(dust, drift[k], axis=1)[:, :width, None] * min(1.0, 1.3 * gusts[k])
        out[k] += np.minimum(blown, 1.0) * (shade - out[k])
    return np.clip(out, 0, 255).astype(np.uint8)


def weather_sound(weather: Weather, samples: int, rate: int) -> np.ndarray:
    """float32 [samples]: hiss, rumble and crickets."""
    rng = np.random.default_rng(weather.seed + 1)
    frequency = np.fft.rfftfreq(samples, 1 / rate).astype(np.float32)
    noise = np.fft.rfft(rng.standard_normal((2, samples), dtype=np.float32))
    hiss = np.fft.irfft(noise[0] / (1 + (RAIN_BAND / np.maximum(frequency, 1)) ** 4), samples)
    rumble = np.fft.irfft(noise[1] / (1 + (frequency / WIND_BAND) ** 4), samples)
    time = np.arange(samples, dtype=np.float32) / rate
    chirps = np.maximum(0.0, np.sin(2 * np.pi * (2.7 * time + rng.uniform()))) ** 2
    song = chirps * np.sin(2 * np.pi * CRICKET * time) * np.sin(2 * np.pi * 30 * time)
    gusts = weather.gust(time / time[-1])
    sound = _level(weather.rain) * hiss / hiss.std()
    sound += _level(gusts) * rumble / rumble.std() + _level(weather.night) * song
    return sound.astype(np.float32)


def _level(strength: np.ndarray | float) -> np.ndarray:
    """Amplitude of a strength 0 .. 1: from silence over 26 dB to 0.04."""
    return 0.002 * (20.0 ** np.asarray(strength, dtype=np.float32)) - 0.002
