"""The picture of a scene: RGB frames painted at twice the size from the scene's hits and curves."""

from __future__ import annotations

import numpy as np

from avssl.data.corpora.scenes.scene import FPS, FRAMES, RATE, STEP, TUBE_LONG, Hit, Scene
from avssl.data.corpora.scenes.stage import SCALE, SIZE, Stage
from avssl.data.corpora.scenes.weather import add_weather


def make_picture(scene: Scene) -> np.ndarray:
    """uint8 [FRAMES, SIZE, SIZE, 3]."""
    stage = Stage(scene)
    paint, glow = _PAINTERS[scene.name], scene.glow
    frames = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    for k in range(FRAMES):
        image = stage.start(k / FPS, glow[k * STEP])
        paint(stage, scene, k * STEP)
        frames[k] = np.asarray(image.reduce(SCALE))
    frames = _sensor(add_weather(frames, scene.weather), scene)
    return frames[:, :, ::-1] if scene.look.mirrored else frames


def _sensor(frames: np.ndarray, scene: Scene) -> np.ndarray:
    """Sensor noise: random crops of one noise field, so that no two frames share it."""
    rng = np.random.default_rng(scene.look.seed + 1)
    field = (
        rng.standard_normal((SIZE + 32, SIZE + 32, 3), dtype=np.float32) * scene.look.noise
    ).astype(np.int16)
    out = np.empty_like(frames)
    for k, (top, left) in enumerate(rng.integers(0, 32, (len(frames), 2))):
        out[k] = np.clip(frames[k] + field[top : top + SIZE, left : left + SIZE], 0, 255)
    return out


def _since(hits: tuple[Hit, ...], time: float, lead: float, tail: float) -> list[tuple[Hit, float]]:
    """Hits from `lead` s before to `tail` s after their time, with the time since."""
    return [(hit, time - hit.time) for hit in hits if -lead <= time - hit.time < tail]


def _dust(stage: Stage, x: float, y: float, radius: float, strength: float, age: float) -> None:
    """A ring thrown up by a hit: as wide as the hit is hard, gone after 0.3 s."""
    alpha = int(230 * (1 - age / 0.3))
    stage.ring(
        x, y, radius + (0.05 + 0.25 * strength) * age / 0.3, 0.02, (*stage.ink, alpha), flat=0.35
    )


def _bounce(stage: Stage, scene: Scene, k: int) -> None:
    x, y, r = scene.curves["x"][k], scene.curves["y"][k], scene.radius
    stage.shadow(x, r * 1.1 / (1 + 2 * y))
    for hit, age in _since(scene.hits, k / RATE, 0.0, 0.3):
        _dust(stage, scene.curves["x"][round(hit.time * RATE)], 0.0, r, hit.strength, age)
    near = [abs(age) for _, age in _since(scene.hits, k / RATE, 0.05, 0.05)]
    squash = 0.3 * (1 - min(near) / 0.05) if near else 0.0
    stage.bodily(x, y + r * (1 - squash), r, angle=2 * x / r, stretch=(1 + squash, 1 - squash))


def _bell(stage: Stage, scene: Scene, k: int) -> None:
    r, shake = scene.radius * 1.25, scene.curves["shake"][k]
    top, y = 0.85, 0.36
    stage.shadow(0.0, r)
    tilt = 0.5 * shake * np.sin(2 * np.pi * 5.3 * k / RATE)
    x = 0.5 * tilt * r
    stage.line([(0.0, top), (x, y + r)], 0.02, stage.ink)
    stage.bodily(x, y, r, angle=tilt)
    if shake > 0.05:
        stage.ring(
            x, y, r * (1.15 + 0.5 * shake), 0.02 + 0.03 * shake, (*stage.ink, int(60 + 190 * shake))
        )
    angle = 1.5 * scene.curves["swing"][k]
    pivot, length = (r + 0.07, top), top - y
    head = (pivot[0] + length * np.sin(angle), pivot[1] - length * np.cos(angle))
    stage.line([pivot, head], 0.025, stage.ink)
    stage.disc(*head, 0.07, stage.ink)
    stage.disc(*head, 0.05, (200, 40, 40))


def _roll(stage: Stage, scene: Scene, k: int) -> None:
    x, angle, r = scene.curves["x"][k], -scene.curves["angle"][k], scene.radius
    stage.shadow(x, r * 1.1)
    push = scene.curves["speed"][k]
    if push > 0.15:
        back = -np.sign(scene.curves["x"][min(k + 1, len(scene.curves["x"]) - 1)] - x)
        for j in range(3):
            y = r * (0.4 + 0.6 * j)
            start = x + back * r * 1.2
            stage.line([(start, y), (start + back * 0.13 * push, y)], 0.02, (*stage.ink, 200))
    stage.bodily(x, r, r, angle=angle)
    stage.line([(x, r), (x + r * np.cos(angle), r - r * np.sin(angle))], 0.25 * r, stage.ink)


def _drops(stage: Stage, scene: Scene, k: int) -> None:
    fall, height = scene.numbers["fall"], scene.numbers["height"]
    stage.disc(0.0, 0.0, 0.45, (70, 120, 180, 150), flat=0.22)
    for hit, age in _since(scene.hits, k / RATE, fall + 0.25, 0.5):
        r = hit.radius * 0.8
        if age < 0:
            done = max(0.0, (age + fall) / fall)
            grown = min(1.0, 1 + (age + fall) / 0.25)  # it grows at the spout before it lets go
            y = height * (1 - done**2)
            u, v = stage.at(hit.x, y + r)
            stage.blob(
                u,
                v,
                r * grown * stage.scale,
                stage.shape,
                0.0,
                stage.body,
                stage.ink,
                (1.0, 1 + 0.4 * done),
            )
            continue
        fade = 1 - age / 0.5
        for j in (0.5, 1.0):
            width = r + (0.06 + 0.3 * hit.strength) * j * age / 0.5
            stage.ring(hit.x, 0.0, width, 0.025, (*stage.ink, int(240 * fade)), flat=0.3)
        stage.disc(hit.x, 0.0, 1.3 * r, (*stage.body, int(255 * fade)), flat=0.5)
        jet = 0.5 * hit.strength * np.sin(np.pi * min(1.0, age / 0.35))
        stage.line([(hit.x, 0.0), (hit.x, max(0.0, jet))], r * 0.9, (*stage.body, int(255 * fade)))
    stage.line([(-0.4, height + 0.2), (0.4, height + 0.2)], 0.6 * scene.radius, stage.body)


def _string(stage: Stage, scene: Scene, k: int) -> None:
    half, y, tilt = 2.6 * scene.radius, scene.numbers["height"], scene.numbers["tilt"]
    along, across = np.array([np.cos(tilt), np.sin(tilt)]), np.array([-np.sin(tilt), np.cos(tilt)])
    middle = np.array([0.0, y])
    stage.shadow(0.0, half)
    u = np.linspace(-1, 1, 9)
    bow = np.cos(np.pi * u / 2)
    envelope = scene.curves["envelope"][k]
    base, bend = middle + half * u[:, None] * along, bow[:, None] * across
    upper, lower = base + 0.24 * envelope * bend, base - 0.24 * envelope * bend
    stage.area([*upper, *lower[::-1]], (*stage.body, 150))
    now = base + 0.24 * envelope * np.cos(2 * np.pi * 6.7 * k / RATE) * bend
    stage.line(now, 0.4 * scene.radius + 0.02, stage.ink)
    stage.line(now, 0.4 * scene.radius, stage.body)
    for end in (-1, 1):
        place = middle + end * half * along
        stage.blob(
            *stage.at(*place),
            0.5 * scene.radius * stage.scale,
            stage.shape,
            0.0,
            stage.body,
            stage.ink,
        )
    for hit, age in _since(scene.hits, k / RATE, 0.2, 0.2):
        x, v = middle + across * (0.24 * hit.strength + 2 * abs(age) ** 1.0 * 0.5)
        stage.disc(x, v, 0.04, (200, 40, 40))


def _rotor(stage: Stage, scene: Scene, k: int) -> None:
    r, y, blades = 1.6 * scene.radius, 0.36, int(scene.numbers["blades"])
    stage.shadow(0.0, r)
    stage.line([(0.0, 0.0), (0.0, y)], 0.04, stage.ink)
    rate = scene.curves["rate"][k]
    for late in range(3):  # exposure: the blades of the last frame
        turn = scene.curves["turns"][max(0, k - late * STEP // 3)]
        for blade in range(blades):
            a = 2 * np.pi * (turn + blade / blades)
            d = np.array([np.sin(a), np.cos(a)])
            side = 0.28 * r * np.array([d[1], -d[0]])
            tip = np.array([0.0, y]) + r * d
            fill = (*stage.body, (255, 130, 70)[late])
            stage.area([(0.0, y), tuple(tip + side), tuple(tip - side)], fill)
    stage.bodily(0.0, y, 0.4 * r, angle=2 * np.pi * scene.curves["turns"][k])
    stage.ring(
        0.0,
        y,
        r * 1.12,
        0.02 + 0.03 * min(1.0, rate / 2),
        (*stage.ink, int(min(1.0, rate / 2) * 230)),
    )


def _whistle(stage: Stage, scene: Scene, k: int) -> None:
    column, breath, w = (
        scene.curves["column"][k],
        scene.curves["breath"][k],
        0.05 + 0.5 * scene.radius,
    )
    stage.shadow(0.0, 0.15)
    stage.area(
        [(-w, 0.08), (w, 0.08), (w, TUBE_LONG + 0.1), (-w, TUBE_LONG + 0.1)], (*stage.ink, 120)
    )
    stage.area([(-w, 0.08), (w, 0.08), (w, 0.08 + column), (-w, 0.08 + column)], (*stage.body, 255))
    stage.line([(-w - 0.05, 0.1 + column), (w + 0.05, 0.1 + column)], 0.045, stage.ink)
    stage.line([(0.0, 0.1 + column), (0.0, 0.1 + column + 0.45)], 0.03, stage.ink)
    stage.bodily(0.0, 0.1 + column + 0.3, 0.8 * w)
    if breath > 0.03:
        for side in (-1, 1):
            x = side * (w + 0.02)
            reach = 0.3 * breath
            fan = [
                (x, 0.05),
                (x + side * reach, 0.05 + 0.5 * reach),
                (x + side * reach, 0.05 - 0.2 * reach),
            ]
            stage.area(fan, (250, 250, 250, 220))


def _pop(stage: Stage, scene: Scene, k: int) -> None:
    swell = scene.numbers["swell"]
    for hit, age in _since(scene.hits, k / RATE, swell, 0.35):
        if age < 0:
            r = hit.radius * (1 + age / swell) ** 0.5
            stage.shadow(hit.x, r)
            stage.bodily(hit.x, hit.y, r)
            continue
        fade = 1 - age / 0.35
        reach = hit.radius + (0.05 + 0.3 * hit.strength) * (age / 0.35) ** 0.5
        stage.disc(hit.x, hit.y, reach, (255, 250, 220, int(200 * fade * hit.strength)))
        for j in range(8):
            a = 2 * np.pi * (j + 0.3) / 8
            d = np.array([np.cos(a), np.sin(a)])
            near, far = (
                np.array([hit.x, hit.y]) + 0.7 * reach * d,
                np.array([hit.x, hit.y]) + reach * d,
            )
            stage.line([tuple(near), tuple(far)], 0.35 * hit.radius, (*stage.body, int(255 * fade)))


_PAINTERS = {
    "bounce": _bounce,
    "bell": _bell,
    "roll": _roll,
    "drops": _drops,
    "string": _string,
    "rotor": _rotor,
    "whistle": _whistle,
    "pop": _pop,
}
