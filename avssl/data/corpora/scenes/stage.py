"""The stage of a scene: background, camera, and the brushes that its events are painted with."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from avssl.data.corpora.scenes.scene import Scene

SIZE = 96
SCALE = 2
_CANVAS = SIZE * SCALE
Colour = tuple[int, ...]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    return tuple(
        int(255 * min(1.0, c)) for c in colorsys.hsv_to_rgb(hue % 1.0, saturation, min(1.0, value))
    )


class Stage:
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
            self.blob(
                x + size * np.sin(6.28 * rate * time + phase), y, radius, corners, 0.0, colour, None
            )
        return image

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Canvas position of a place."""
        return self.centre + self.scale * x, self.ground - self.scale * y

    def blob(
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
                (u - a, v - b, u + a, v + b), fill=fill, outline=outline, width=SCALE
            )
            return
        angles = angle + 2 * np.pi * np.arange(corners) / corners
        points = [
            (u + radius * stretch[0] * np.cos(a), v + radius * stretch[1] * np.sin(a))
            for a in angles
        ]
        self.brush.polygon(points, fill=fill, outline=outline, width=SCALE)

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
        self.blob(
            *self.at(x, y), radius * self.scale, self.shape, angle, self.body, self.ink, stretch
        )

    def disc(self, x: float, y: float, radius: float, fill: Colour, *, flat: float = 1.0) -> None:
        """A filled ellipse, `flat` times as high as wide."""
        if radius > 0:
            self.blob(*self.at(x, y), radius * self.scale, 0, 0.0, fill, None, (1.0, flat))

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
