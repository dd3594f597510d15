"""One random scene: the numbers from which both the picture and the sound of a clip are made.

Units: seconds, and picture heights at distance 1 (a ball of radius 0.1 at distance 2 covers 0.1 of
the picture's height). Continuous motions are curves of `RATE` samples per second; frame k of the
picture reads sample k * STEP, and the sound reads the same curve, so the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from avssl.data.corpora.scenes.weather import Weather

SECONDS = 3.0
FPS = 10
FRAMES = int(SECONDS * FPS)
STEP = 48  # curve samples per picture frame
RATE = FPS * STEP  # 480 curve samples per second
SAMPLES = int(SECONDS * RATE) + 1

CLASSES = ("bounce", "bell", "roll", "drops", "string", "rotor", "whistle", "pop")
SPLITS = ("train", "val", "test")

SMALLEST, LARGEST = 0.07, 0.26  # radius
HIGHEST = 2200.0  # Hz, the pitch of the smallest radius
ROOM_SMALL, ROOM_LARGE = 2.2, 6.0  # depth
TUBE_SHORT, TUBE_LONG = 0.08, 0.62  # column of the whistle
TUBE_HIGHEST = 2000.0  # Hz, at TUBE_SHORT


def pitch(radius: float) -> float:
    """Pitch in Hz of a body of this radius: bending modes of similar plates, f ~ 1 / radius^2."""
    return HIGHEST * (SMALLEST / radius) ** 2


def tube_pitch(column: np.ndarray) -> np.ndarray:
    """Pitch in Hz of an air column of this length, f ~ 1 / length."""
    return TUBE_HIGHEST * TUBE_SHORT / column


@dataclass(frozen=True)
class Hit:
    """One audible event: `time` in s, `strength` in (0, 1], `radius` of what sounds, place."""

    time: float
    strength: float
    radius: float
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Look:
    """What the eye alone gets: nothing here is heard, and nothing here depends on the class."""

    seed: int
    hue: float
    saturation: float
    value: float
    shift: float
    zoom: float
    horizon: float
    light: float
    noise: float
    distractors: int
    shape: int  # number of corners of the body, 0 = disc
    mirrored: bool
    saturation_body: float
    value_body: float


@dataclass(frozen=True)
class Microphone:
    """What the ear alone gets: noise and the recording's colour, independent of the class."""

    seed: int
    level: float
    tilt: float
    colour: tuple[float, ...]  # gain in dB at octaves from 62.5 Hz to 8 kHz


@dataclass(frozen=True)
class Scene:
    """One clip. `hits` are in order of time; `curves` map a name to a float array [SAMPLES]."""

    split: str
    index: int
    label: int
    radius: float
    material: float  # 0 wood (warm colour, dull, short ring) .. 1 metal (blue, bright, long ring)
    distance: float
    room: float  # depth of the room, 2.2 .. 6: reverberation time and size of the back wall
    effort: float  # how hard the events of this clip are
    stretch: float  # spacing of the partials; not seen
    breathy: float  # share of noise in the voice; not seen
    look: Look
    microphone: Microphone
    weather: Weather
    hits: tuple[Hit, ...] = ()
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def glow(self) -> np.ndarray:
        """Brightness of the sounding body, [SAMPLES] in 0 .. 1: it follows how loud it sounds.

        Struck bodies cool down over a third of a second, so that a picture every 0.25 s
        still shows each hit.
        """
        for name, full in (("breath", 1.0), ("speed", 2.0), ("rate", 2.2)):
            if name in self.curves:
                return np.minimum(self.curves[name] / full, 1.0)
        return ringing(self.hits, 0.33)

    @property
    def name(self) -> str:
        """Class name."""
        return CLASSES[self.label]

    @property
    def text(self) -> str:
        """One sentence that says what happens, with size, material and distance in words."""
        size = ("tiny", "small", "large", "huge")[_quarter(self.radius, SMALLEST, LARGEST)]
        stuff = ("wooden", "clay", "stone", "metal")[min(3, int(self.material * 4))]
        where = ("nearby", "in the middle", "far away")[min(2, int(5 * (self.distance - 1.0)))]
        count = len(self.hits)
        sentences = {
            "bounce": f"a {size} {stuff} ball bounces {count} times {where}",
            "bell": f"a hammer strikes a {size} {stuff} bell {count} times {where}",
            "roll": f"a {size} {stuff} wheel rolls to and fro {where}",
            "drops": f"{count} {size} drops fall into water {where}",
            "string": f"a {size} {stuff} string is plucked {count} times {where}",
            "rotor": f"a {size} {stuff} rotor turns {where}",
            "whistle": f"a {stuff} slide whistle plays {where}",
            "pop": f"{count} {size} {stuff} bubbles burst {where}",
        }
        return f"{sentences[self.name]}, {self.weather.text}"


def _quarter(value: float, low: float, high: float) -> int:
    return min(3, int(4 * np.log(value / low) / np.log(high / low)))


def _smooth(values: np.ndarray, times: np.ndarray, width: float) -> np.ndarray:
    """A curve [SAMPLES] through (times, values), rounded over `width` seconds."""
    grid = np.arange(SAMPLES) / RATE
    half = int(width * RATE / 2)
    kernel = np.hanning(2 * half + 3)[1:-1]
    line = np.interp(np.arange(-half, SAMPLES + half) / RATE, times, values)
    assert len(grid) == len(line) - 2 * half
    return np.convolve(line, kernel / kernel.sum(), mode="valid")


def _irregular(
    rng: np.random.Generator, shortest: float, longest: float, start: float = 0.0
) -> list[float]:
    """Times of events with random gaps; ends early enough for the last one to be seen and heard."""
    times, now = [], start + rng.uniform(0.05, longest)
    while now < SECONDS - 0.12:
        times.append(now)
        now += rng.uniform(shortest, longest)
    return times


def _bounce(rng: np.random.Generator, radius: float, effort: float) -> dict:
    """A body under gravity: speed after impact = restitution * speed before it."""
    restitution = rng.uniform(0.72, 0.9)
    height = 0.22 + 0.42 * effort  # of the fall that leads to the first impact
    flight = rng.uniform(0.6, 1.1)  # duration of a full flight up to `height` and back
    gravity = 8 * height / flight**2
    speed = np.sqrt(2 * gravity * height)
    now = rng.uniform(0.05, flight / 2 + 0.25)
    grid = np.arange(SAMPLES) / RATE
    y = height - gravity / 2 * np.maximum(0.0, grid - (now - speed / gravity)) ** 2
    full = np.sqrt(2 * gravity * 0.64) * 0.64  # impact that counts as strength 1
    hits = []
    while now < SECONDS:
        hits.append(Hit(now, float(min(1.0, speed * height / full)), radius))
        speed *= restitution
        y = np.where(grid >= now, speed * (grid - now) - gravity / 2 * (grid - now) ** 2, y)
        now += 2 * speed / gravity
        if 2 * speed / gravity < 0.16:  # it has come to rest, and is thrown up again
            y = np.where(grid >= now, 0.0, y)
            rest = now + rng.uniform(0.1, 0.3)
            speed = np.sqrt(2 * gravity * height * rng.uniform(0.5, 1.0))
            y = np.where(grid >= rest, speed * (grid - rest) - gravity / 2 * (grid - rest) ** 2, y)
            now = rest + 2 * speed / gravity
    x0, x1 = rng.uniform(-0.3, 0.3, 2)
    return {
        "hits": tuple(hits),
        "curves": {"x": x0 + (x1 - x0) * grid / SECONDS, "y": np.maximum(y, 0.0)},
        "numbers": {"gravity": gravity, "restitution": restitution},
    }


def _bell(rng: np.random.Generator, radius: float, effort: float) -> dict:
    """A hammer swings out and back once per period and strikes a hanging bell."""
    period = rng.uniform(0.42, 1.1)
    first = rng.uniform(-period, 0.0)
    times = np.arange(first, SECONDS + period, period)
    swings = np.clip(effort * rng.uniform(0.35, 1.25, len(times)), 0.2, 1.0)  # before each hit
    grid = np.arange(SAMPLES) / RATE
    last = np.clip(np.searchsorted(times, grid, side="right") - 1, 0, len(times) - 2)
    swing = swings[last + 1] * np.sin(np.pi * (grid - times[last]) / period)
    hits = [
        Hit(float(t), float(min(1.0, s * (0.75 / period) ** 0.5)), radius)
        for t, s in zip(times, swings, strict=True)
        if 0.0 <= t < SECONDS
    ]
    return {
        "hits": tuple(hits),
        "curves": {"swing": np.maximum(swing, 0.0), "shake": ringing(hits, 0.25)},
        "numbers": {"period": period},
    }


def ringing(hits: Iterable[Hit], decay: float) -> np.ndarray:
    """Envelope [SAMPLES] that jumps to each hit's strength and decays in `decay` s to 1/e."""
    grid = np.arange(SAMPLES) / RATE
    envelope = np.zeros(SAMPLES)
    for hit in hits:
        tail = np.where(
            grid >= hit.time, hit.strength * np.exp(-np.maximum(grid - hit.time, 0.0) / decay), 0.0
        )
        envelope = np.maximum(envelope, tail)
    return envelope


def _roll(rng: np.random.Generator, radius: float, effort: float) -> dict:
    """A wheel rolls without slipping; level and brightness of its noise follow the speed."""
    knots, times, now = [], [], -0.2
    side = rng.choice([-1.0, 1.0])
    while now < SECONDS + 0.4:
        knots.append(side * rng.uniform(0.05, 0.48))
        times.append(now)
        hold = rng.uniform(0.0, 0.35)  # rests here
        knots.append(knots[-1])
        times.append(now + hold)
        now += hold + rng.uniform(0.25, 0.9) / (0.5 + effort)
        side = -side
    x = _smooth(np.array(knots), np.array(times), 0.2)
    speed = np.abs(np.gradient(x, 1 / RATE))
    return {"curves": {"x": x, "speed": speed, "angle": -x / radius}}


def _drops(rng: np.random.Generator, radius: float, effort: float) -> dict:
    """Drops let go from a spout; each sounds when it reaches the water, pitch by its own radius."""
    hits = []
    for time in _irregular(rng, 0.16, 0.75):
        own = float(np.clip(radius * 2 ** rng.uniform(-0.2, 0.2), SMALLEST, LARGEST))
        hits.append(
            Hit(
                time,
                float(np.clip(effort * rng.uniform(0.6, 1.3), 0.1, 1.0)),
                own,
                rng.uniform(-0.28, 0.28),
            )
        )
    return {"hits": tuple(hits), "numbers": {"fall": 0.35, "height": 0.68}}


def _string(rng: np.random.Generator, radius: float, effort: float) -> dict:
    """A plucked string: the width of the visible vibration is the envelope of the sound."""
    decay = rng.uniform(0.25, 0.7)
    hits = [
        Hit(t, float(np.clip(effort * rng.uniform(0.5, 1.3), 0.15, 1.0)), radius)
        for t in _irregular(rng, 0.25, 1.0)
    ]
    return {
        "hits": tuple(hits),
        "curves": {"envelope": ringing(hits, decay)},
        "numbers": {
            "decay": decay,
            "tilt": rng.uniform(-0.5, 0.5),
            "height": rng.uniform(0.2, 0.45),
        },
    }


def _rotor(rng: np.random.Generator, radius: float, effort: float) -> dict:
    """A rotor speeds up and slows down; its hum grows with its rate."""
    times = np.cumsum(np.concatenate([[-0.3], rng.uniform(0.4, 0.9, 9)]))
    rates = rng.uniform(0.0, 1.0, 10) * (0.5 + 1.7 * effort)  # turns per second
    rate = _smooth(np.maximum(rates, 0.05), times, 0.35)
    turns = rng.uniform() + np.cumsum(rate) / RATE
    return {
        "curves": {"rate": rate, "turns": turns},
        "numbers": {"blades": float(rng.integers(1, 4))},
    }


def _whistle(rng: np.random.Generator, radius: float, effort: float) -> dict:
    """A slide whistle: pitch follows the column under the piston, loudness the breath."""
    times = np.cumsum(np.concatenate([[-0.3], rng.uniform(0.2, 0.7, 15)]))
    octaves = np.log2(TUBE_LONG / TUBE_SHORT)
    middle = np.log(radius / SMALLEST) / np.log(LARGEST / SMALLEST)
    places = np.clip(middle + rng.uniform(-0.4, 0.4, 16), 0.0, 1.0)
    column = TUBE_SHORT * 2 ** (octaves * _smooth(places, times, 0.12))
    puffs = np.cumsum(np.concatenate([[-0.3], rng.uniform(0.2, 0.8, 15)]))
    first = rng.integers(2)
    levels = np.where((np.arange(16) + first) % 2 == 0, effort * rng.uniform(0.6, 1.3, 16), 0.0)
    grid = np.arange(-240, SAMPLES + 240) / RATE
    steps = levels[np.clip(np.searchsorted(puffs, grid, side="right") - 1, 0, 15)]
    breath = np.convolve(steps, np.hanning(33) / np.hanning(33).sum(), mode="same")[240:-240]
    return {"curves": {"column": column, "breath": np.clip(breath, 0.0, 1.0)}}


def _pop(rng: np.random.Generator, radius: float, effort: float) -> dict:
    """Bubbles swell and burst; the flash is as wide as it is loud."""
    hits = []
    for time in _irregular(rng, 0.2, 0.85):
        own = float(np.clip(radius * 2 ** rng.uniform(-0.2, 0.2), SMALLEST, LARGEST))
        strength = float(np.clip(effort * rng.uniform(0.5, 1.4), 0.1, 1.0))
        hits.append(Hit(time, strength, own, rng.uniform(-0.33, 0.33), rng.uniform(0.15, 0.6)))
    return {"hits": tuple(hits), "numbers": {"swell": 0.6}}


_EVENTS = (_bounce, _bell, _roll, _drops, _string, _rotor, _whistle, _pop)


def make_scene(split: str, index: int, *, seed: int = 0) -> Scene:
    """The scene of clip `index` of `split`: a function of (seed, split, index) alone.

    Classes are balanced: label = index mod 8. Everything else is drawn from a stream of the clip's
    own: no two splits or indices share one.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    label = index % len(CLASSES)
    radius = float(SMALLEST * (LARGEST / SMALLEST) ** rng.uniform())
    effort = float(rng.uniform(0.25, 1.0))
    material, distance, room = (
        float(rng.uniform()),
        float(rng.uniform(1.0, 1.6)),
        float(ROOM_SMALL * (ROOM_LARGE / ROOM_SMALL) ** rng.uniform()),
    )
    look = Look(
        seed=int(rng.integers(2**31)),
        hue=rng.uniform(),
        saturation=rng.uniform(0.0, 0.25),
        value=rng.uniform(0.15, 0.6),
        shift=rng.uniform(-0.08, 0.08),
        zoom=rng.uniform(0.94, 1.08),
        horizon=rng.uniform(0.38, 0.52),
        light=rng.uniform(0.8, 1.2),
        noise=rng.uniform(0.5, 2.0),
        distractors=int(rng.integers(0, 3)),
        shape=int(rng.choice([0, 3, 4, 5, 6])),
        mirrored=bool(rng.integers(2)),
        saturation_body=rng.uniform(0.65, 1.0),
        value_body=rng.uniform(0.75, 1.0),
    )
    microphone = Microphone(
        seed=int(rng.integers(2**31)),
        level=float(10 ** rng.uniform(-3.5, -3.0)),
        tilt=float(rng.uniform(0.0, 1.3)),
        colour=tuple(float(v) for v in rng.uniform(-4.0, 4.0, 8)),
    )
    return Scene(
        split=split,
        index=index,
        label=label,
        radius=radius,
        material=material,
        distance=distance,
        room=room,
        effort=effort,
        stretch=float(rng.uniform(0.9, 1.3)),
        breathy=float(rng.uniform(0.0, 0.7)),
        look=look,
        microphone=microphone,
        weather=Weather.draw(np.random.default_rng([seed, SPLITS.index(split), index, 1])),
        **_EVENTS[label](rng, radius, effort),
    )
