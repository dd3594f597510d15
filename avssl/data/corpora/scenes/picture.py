"""The picture of a scene: RGB frames painted at twice the size from the scene's hits and curves."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from avssl.data.corpora.scenes.scene import FPS, FRAMES, RATE, STEP, TUBE_LONG, Hit, Scene
from avssl.data.corpora.scenes.weather import add_weather

SIZE = 96
_SCALE = 2
_CANVAS = SIZE * _SCALE
Colour = tuple[int, ...]


def make_picture(scene: Scene) -> np.ndarray:
    """uint8 [FRAMES, SIZE, SIZE, 3]."""
    stage = _Stage(scene)
    paint, glow = _PAINTERS[scene.name], scene.glow
    frames = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    for k in range(FRAMES):
        image = stage.start(k / FPS, glow[k * STEP])
        paint(stage, scene, k * STEP)
        frames[k] = np.asarray(image.reduce(_SCALE))
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


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    return tuple(
        int(255 * min(1.0, c)) for c in colorsys.hsv_to_rgb(hue % 1.0, saturation, min(1.0, value))
    )


class _Stage:
    """Background, camera and brushes.

    Lengths are the scene's; places are (x, y) above the ground at the scene's distance.
    """

    def __init__(self, scene: Scene) -> None:
        look = scene.look
        self.scale = look.zoom / scene.distance * _CANVAS
        self.centre = (0.5 + look.shift) * _CANVAS
        self.ground = (look.horizon + (0.93 - look.horizon) / scene.distance) * _CANVAS
        self.body = _rgb(
            0.02 + 0.62 * scene.material, look.saturation_body, look.value_body * look.light
        )
        dark = look.value * look.light * (1 - 0.75 * scene.weather.night) > 0.45
        self.ink: Colour = (15, 15, 15) if dark else (240, 240, 240)
        self.shape, self.rng = look.shape, np.random.default_rng(look.seed)
        self.background = self._room(scene)
        self.lit = self._lit(scene)
        self.distractors = [self._distractor() for _ in range(look.distractors)]

    def _room(self, scene: Scene) -> Image.Image:
        """Walls, floor and back wall (the smaller, the deeper the room) under a random texture."""
        look, image = scene.look, Image.new("RGB", (_CANVAS, _CANVAS))
        brush = ImageDraw.Draw(image)
        shades = [
            _rgb(look.hue + 0.1 * k, look.saturation, look.value * look.light * (1 + 0.35 * k))
            for k in (-0.6, 0.6, -1.2, 1.0)  # side walls, floor, ceiling, back wall
        ]
        u, v, half = self.centre, look.horizon * _CANVAS, 1.15 / scene.room * _CANVAS
        wide, high, far = half, 0.8 * half, 3.0 * _CANVAS
        brush.rectangle((0, 0, _CANVAS, _CANVAS), fill=shades[0])
        for side, shade in ((1, shades[1]), (-1, shades[2])):
            corners = [(-wide, high), (wide, high), (far, 0.8 * far), (-far, 0.8 * far)]
            brush.polygon([(u + x, v + side * y) for x, y in corners], fill=shade)
        brush.rectangle((u - wide, v - high, u + wide, v + high), fill=shades[3])
        cells = int(self.rng.integers(3, 14))
        texture = self.rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        texture = np.asarray(
            Image.fromarray(texture).resize((_CANVAS, _CANVAS), Image.Resampling.BILINEAR)
        )
        pixels = np.asarray(image, dtype=np.float32) * (
            1 + self.rng.uniform(0.05, 0.35) * texture[..., None]
        )
        pixels *= 1 - scene.weather.night * np.array([0.8, 0.75, 0.6])  # dark and blue
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def _lit(self, scene: Scene) -> Image.Image:
        """The room in the full light of the sounding body: a larger body lights more of it."""
        reach = 0.3 + 2.5 * scene.radius
        v, u = np.mgrid[:_CANVAS, :_CANVAS].astype(np.float32)
        u0, v0 = self.at(0.0, 0.3)
        light = 1 / (1 + ((u - u0) ** 2 + (v - v0) ** 2) / (reach * self.scale) ** 2)
        colour = 0.6 * np.array(self.body, dtype=np.float32) + 40
        pixels = np.asarray(self.background, dtype=np.float32)
        pixels = pixels + 0.8 * light[..., None] * colour
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def _distractor(self) -> tuple:
        """A silent shape that drifts and sways: start, velocity, sway, radius, corners, colour."""
        rng = self.rng
        colour = _rgb(rng.uniform(), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9))
        start, velocity = rng.uniform(0, _CANVAS, 2), rng.uniform(-0.12, 0.12, 2) * _CANVAS
        sway = (rng.uniform(0, 0.05) * _CANVAS, rng.uniform(0.3, 1.5), rng.uniform(0, 6.28))
        return (
            start,
            velocity,
            sway,
            rng.uniform(0.02, 0.06) * _CANVAS,
            int(rng.choice([0, 3, 4])),
            colour,
        )

    def start(self, time: float, glow: float) -> Image.Image:
        """A fresh frame with its distractors; the brushes paint on it."""
        image = Image.blend(self.background, self.lit, glow)
        self.brush = ImageDraw.Draw(image, "RGBA")
        for start, velocity, (size, rate, phase), radius, corners, colour in self.distractors:
            x, y = (start + velocity * time) % _CANVAS
            self._blob(
                x + size * np.sin(6.28 * rate * time + phase), y, radius, corners, 0.0, colour, None
            )
        return image

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Canvas position of a place."""
        return self.centre + self.scale * x, self.ground - self.scale * y

    def _blob(
        self,
        u: float,
        v: float,
        radius: float,
        corners: int,
        angle: float,
        fill: Colour,
        outline: Colour | None,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """A disc (no corners) or regular polygon about a canvas position; radius in pixels."""
        if corners == 0:
            a, b = radius * stretch[0], radius * stretch[1]
            self.brush.ellipse(
                (u - a, v - b, u + a, v + b), fill=fill, outline=outline, width=_SCALE
            )
            return
        angles = angle + 2 * np.pi * np.arange(corners) / corners
        points = [
            (u + radius * stretch[0] * np.cos(a), v + radius * stretch[1] * np.sin(a))
            for a in angles
        ]
        self.brush.polygon(points, fill=fill, outline=outline, width=_SCALE)

    def bodily(
        self,
        x: float,
        y: float,
        radius: float,
        *,
        angle: float = 0.0,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """The sounding body: the scene's shape in its material's colour."""
        self._blob(
            *self.at(x, y), radius * self.scale, self.shape, angle, self.body, self.ink, stretch
        )

    def disc(self, x: float, y: float, radius: float, fill: Colour, *, flat: float = 1.0) -> None:
        """A filled ellipse, `flat` times as high as wide."""
        if radius > 0:
            self._blob(*self.at(x, y), radius * self.scale, 0, 0.0, fill, None, (1.0, flat))

    def ring(
        self, x: float, y: float, radius: float, width: float, colour: Colour, *, flat: float = 1.0
    ) -> None:
        """An ellipse's outline."""
        u, v = self.at(x, y)
        a, b = radius * self.scale, radius * self.scale * flat
        self.brush.ellipse(
            (u - a, v - b, u + a, v + b), outline=colour, width=max(1, round(width * self.scale))
        )

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        """A polyline."""
        width = max(1, round(width * self.scale))
        self.brush.line([self.at(x, y) for x, y in points], fill=colour, width=width)

    def area(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """A filled polygon."""
        self.brush.polygon([self.at(x, y) for x, y in points], fill=colour)

    def shadow(self, x: float, radius: float) -> None:
        """A shadow on the ground, which tells how far away the body is."""
        self.disc(x, -0.02, radius, (0, 0, 0, 90), flat=0.25)


def _since(hits: tuple[Hit, ...], time: float, lead: float, tail: float) -> list[tuple[Hit, float]]:
    """Hits from `lead` s before to `tail` s after their time, with the time since."""
    return [(hit, time - hit.time) for hit in hits if -lead <= time - hit.time < tail]


def _dust(stage: _Stage, x: float, y: float, radius: float, strength: float, age: float) -> None:
    """A ring thrown up by a hit: as wide as the hit is hard, gone after 0.3 s."""
    alpha = int(230 * (1 - age / 0.3))
    stage.ring(
        x, y, radius + (0.05 + 0.25 * strength) * age / 0.3, 0.02, (*stage.ink, alpha), flat=0.35
    )


def _bounce(stage: _Stage, scene: Scene, k: int) -> None:
    x, y, r = scene.curves["x"][k], scene.curves["y"][k], scene.radius
    stage.shadow(x, r * 1.1 / (1 + 2 * y))
    for hit, age in _since(scene.hits, k / RATE, 0.0, 0.3):
        _dust(stage, scene.curves["x"][round(hit.time * RATE)], 0.0, r, hit.strength, age)
    near = [abs(age) for _, age in _since(scene.hits, k / RATE, 0.05, 0.05)]
    squash = 0.3 * (1 - min(near) / 0.05) if near else 0.0
    stage.bodily(x, y + r * (1 - squash), r, angle=2 * x / r, stretch=(1 + squash, 1 - squash))


def _bell(stage: _Stage, scene: Scene, k: int) -> None:
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


def _roll(stage: _Stage, scene: Scene, k: int) -> None:
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


def _drops(stage: _Stage, scene: Scene, k: int) -> None:
    fall, height = scene.numbers["fall"], scene.numbers["height"]
    stage.disc(0.0, 0.0, 0.45, (70, 120, 180, 150), flat=0.22)
    for hit, age in _since(scene.hits, k / RATE, fall + 0.25, 0.5):
        r = hit.radius * 0.8
        if age < 0:
            done = max(0.0, (age + fall) / fall)
            grown = min(1.0, 1 + (age + fall) / 0.25)  # it grows at the spout before it lets go
            y = height * (1 - done**2)
            u, v = stage.at(hit.x, y + r)
            stage._blob(
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


def _string(stage: _Stage, scene: Scene, k: int) -> None:
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
        stage._blob(
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


def _rotor(stage: _Stage, scene: Scene, k: int) -> None:
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


def _whistle(stage: _Stage, scene: Scene, k: int) -> None:
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


def _pop(stage: _Stage, scene: Scene, k: int) -> None:
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
