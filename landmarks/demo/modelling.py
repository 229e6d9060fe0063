"""What buildings are made of: textured polygons.

Lengths are metres, x to the right along the front of a building, y away from it, z up. Colours are RGB
from 0 to 1.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[Any]

Colour = tuple[float, float, float]

TEXELS = 16  # per metre of wall

LEVELS = 4  # sizes of each texture, each half the one before


class Face(NamedTuple):
    """A flat polygon: corners (K, 3), unit normal, and where it lies on its texture.

    `right` and `up` are the texture's axes in space, `origin` is the middle of its lower edge.
    """

    outline: Array
    normal: Array
    right: Array
    up: Array
    origin: Array
    texture: int

    @classmethod
    def on(cls, outline: Array, texture: int, shift: tuple[float, float] = (0.0, 0.0)) -> "Face":
        """The face whose first edge points right along the wall and whose last corner lies above it."""
        right = (outline[1] - outline[0]) / np.linalg.norm(outline[1] - outline[0])
        normal = np.cross(right, outline[-1] - outline[0])
        normal /= np.linalg.norm(normal)
        up = np.cross(normal, right)
        along = outline @ right
        middle, foot = (along.min() + along.max()) / 2 - shift[0], (outline @ up).min() - shift[1]
        origin = right * middle + up * foot + normal * (normal @ outline[0])
        return cls(outline, normal, right, up, origin, texture)


class Style(NamedTuple):
    """What the walls of a landmark have in common."""

    wall: Colour
    trim: Colour
    roof: Colour
    stone: tuple[float, float]  # width and height in metres
    opening: str  # a kind of `arch`


class Scene(NamedTuple):
    """A finished landmark: its faces, and all textures as one image in `LEVELS` sizes."""

    faces: list[Face]
    levels: list[Array]  # (H >> level, W >> level, 4) uint8, as `Canvas.pixels`
    slots: Array  # (textures, 3) float32: top row, width and height in the largest of them
    reach: float  # half the width
    height: float
    water: bool  # stands in a river


def cloudiness(rng: Generator, width: int, height: int) -> Array:
    """Smooth noise (height, width) float32 of mean 0 and deviation 1, like clouds or stains."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        cell = max(width / 2 ** (octave + 1), 2)
        grid = rng.standard_normal((int(height / cell) + 2, int(width / cell) + 2), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.asarray((total - total.mean()) / (total.std() + 1e-6))


def arch(kind: str, width: float, height: float) -> Array:
    """Outline (K, 2) of an opening that stands on z = 0: up its right side and down its left.

    `kind` is flat, round, pointed (two arcs, each around the foot of the other) or disc.
    """
    half = width / 2
    angle = np.linspace(0, np.pi / 3 if kind == "pointed" else np.pi / 2, 7)
    if kind == "flat":
        curve = np.array([[half, height]])
    elif kind == "round":
        curve = np.stack([np.cos(angle), np.sin(angle)], 1) * half + (0, height - half)
    elif kind == "pointed":
        curve = np.stack([np.cos(angle) - 0.5, np.sin(angle)], 1) * width
        curve[:, 1] += height - curve[-1, 1]
    else:
        angle = np.linspace(-np.pi / 2, np.pi / 2, 11)
        curve = np.stack([np.cos(angle) * half, (np.sin(angle) + 1) * height / 2], 1)
    right = curve if kind == "disc" else np.vstack([[half, 0], curve])
    return np.vstack([right, right[right[:, 0] > 1e-9][::-1] * (-1, 1)])


class Canvas:
    """A wall being painted: `pixels` (H, W, 4) uint8 are RGB and how much is window, lit at night.

    x is measured from the middle, z from the bottom.
    """

    def __init__(self, rng: Generator, index: int, width: float, height: float, style: Style):
        self.rng, self.index, self.width, self.height, self.style = rng, index, width, height, style
        columns, rows = (max(round(length * TEXELS), 8) for length in (width, height))
        across, down = (length * TEXELS for length in style.stone)
        course = (np.arange(rows) / down).astype(int)[:, None]
        along = np.arange(columns) / across + rng.uniform(0, 1, rows)[course]
        tone = 1 + rng.normal(0, 0.08, (rows, int(along.max()) + 1))[course, along.astype(int)]
        tone -= 0.17 * ((along % 1 * across < 1) | (np.arange(rows)[:, None] % down < 1))
        tone += 0.06 * cloudiness(rng, columns, rows) + 0.02 * rng.standard_normal(tone.shape, np.float32)
        self.pixels = np.zeros((rows, columns, 4), np.uint8)
        self.pixels[..., :3] = np.clip(tone[..., None] * np.array(style.wall) * 255, 0, 255)

    def fill(self, outline: Array, colour: Colour, shade: float = 1.0, window: float = 0.0) -> None:
        """Fill the polygon `outline` (K, 2)."""
        texels = np.round((outline * (1, -1) + (self.width / 2, self.height)) * TEXELS * 16)
        value = [min(part * shade, 1) * 255 for part in colour] + [window * 255]
        cv2.fillPoly(self.pixels, [texels.astype(np.int32)], value, cv2.LINE_AA, 4)

    def strip(self, x: float, z: float, width: float, height: float, shade: float = 1.0) -> None:
        """Fill a rectangle with the trim's colour; `x` is its middle and `z` its lower edge."""
        self.fill(arch("flat", width, height) + (x, z), self.style.trim, shade)

    def opening(
        self, x: float, z: float, width: float, height: float, kind: str = "", door: bool = False
    ) -> None:
        """Paint a window or door: frame, recess in shadow, panes of a tone of their own, bars, sill."""
        kind = kind or self.style.opening
        glass, lit = (
            ((0.3, 0.2, 0.13), 0.0) if door else ((0.2, 0.26, 0.32), self.rng.choice([0.0, 0.6, 1.0]))
        )
        self.fill(arch(kind, width + 0.5, height + 0.3) + (x, z), self.style.trim)
        self.fill(arch(kind, width, height) + (x, z), (0.1, 0.09, 0.09))
        pane = arch(kind, width - 0.2, height - 0.25) + (x + 0.05, z)
        self.fill(pane, glass, self.rng.uniform(0.5, 1.3), lit)
        for bar in np.linspace(-0.5, 0.5, max(round(width / 0.7), 2) + 1)[1:-1] * width:
            self.strip(x + bar, z, 0.1, height * 0.75, 0.6)
        for level in np.arange(1.0, height * 0.8, 1.1):
            self.strip(x, z + level, width * 0.9, 0.08, 0.6)
        self.strip(x, z - 0.3, width + 0.8, 0.3, 1.05)

    def row(self, count: int, z: float, width: float, height: float, kind: str = "") -> None:
        """Paint `count` windows, evenly over the wall."""
        for x in (np.arange(count) + 0.5 - count / 2) / count * self.width:
            self.opening(x, z, width, height, kind)

    def band(self, z: float, height: float = 1.2) -> None:
        """Paint a cornice with a frieze of stars, no two walls with the same ones."""
        for low, high, shade in ((-0.15, 0, 0.45), (0, height, 1), (height - 0.2, height, 1.15)):
            self.strip(0, z + low, self.width, high - low, shade)
        points = int(self.rng.integers(3, 7))
        for x in np.arange((height - self.width) / 2, self.width / 2, height):
            angle = np.arange(2 * points) * np.pi / points + self.rng.uniform(0, 3)
            radius = np.where(np.arange(2 * points) % 2, self.rng.uniform(0.08, 0.3), 0.36) * height
            star = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
            self.fill(star + (x, z + height / 2), self.style.trim, self.rng.choice([0.4, 0.55, 0.7]))

    def pilasters(self, count: int, width: float = 0.8) -> None:
        """Paint upright strips, evenly from edge to edge."""
        for x in np.linspace(-0.5, 0.5, count) * (self.width - width):
            self.strip(x + 0.1, 0, width + 0.2, self.height, 0.5)
            self.strip(x, 0, width, self.height)

    def circle(self, x: float, z: float, radius: float, colour: Colour, window: float = 0.0) -> None:
        """Fill a circle around (`x`, `z`)."""
        self.fill(arch("disc", 2 * radius, 2 * radius) + (x, z - radius), colour, 1.0, window)

    def rose(self, x: float, z: float, radius: float, petals: int) -> None:
        """Paint a round window of coloured glass."""
        self.circle(x, z, radius * 1.12, self.style.trim)
        self.circle(x, z, radius, (0.14, 0.16, 0.24), 0.5)
        for angle in np.arange(petals) * 2 * np.pi / petals:
            tint = self.rng.uniform(0.2, 0.8, 3)
            for far, size in ((0.75, 0.15), (0.4, 0.1)):
                at_x, at_z = x + radius * far * np.cos(angle), z + radius * far * np.sin(angle)
                self.circle(at_x, at_z, radius * (size + 0.05), self.style.trim)
                self.circle(at_x, at_z, radius * size, (tint[0], tint[1], tint[2]), 1.0)

    def clock(self, x: float, z: float, radius: float) -> None:
        """Paint a clock."""
        self.circle(x, z, radius * 1.15, self.style.trim)
        self.circle(x, z, radius, (0.93, 0.91, 0.82), 1.0)
        hands = [(angle, 0.8, 0.97, 0.05) for angle in np.arange(12) * np.pi / 6]
        for angle, start, end, half in [*hands, (2.5, -0.1, 0.55, 0.07), (0.4, -0.1, 0.85, 0.05)]:
            corners = np.array([(start, -half), (end, -half), (end, half), (start, half)]) * radius
            turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
            self.fill(corners @ turn + (x, z), (0.1, 0.1, 0.12))


def ring(x: float, y: float, z: float, rx: float, ry: float | None = None, sides: int = 4) -> Array:
    """Level outline (sides, 3), anticlockwise from above, its first edge in front.

    Four sides are a rectangle of half width `rx` and half depth `ry`; more are a circle of radius `rx`.
    """
    if sides == 4:
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (rx, rx if ry is None else ry)
    else:
        angle = (np.arange(sides) * 2 - 1) * np.pi / sides - np.pi / 2
        corners = np.stack([np.cos(angle), np.sin(angle)], 1) * rx
    return np.column_stack([corners + (x, y), np.full(sides, z)])


class Model:
    """A landmark under construction. Every `z` is the foot of what is added."""

    def __init__(self, canvases: list[Canvas], rng: Generator, style: Style):
        self.canvases, self.rng, self.style = canvases, rng, style
        self.faces: list[Face] = []
        self.stone = self.canvas(8, 8)
        self.roof = self.canvas(8, 8, style._replace(wall=style.roof, stone=(0.5, 0.5)))

    def canvas(self, width: float, height: float, style: Style | None = None) -> Canvas:
        """A wall of plain stone, to be painted."""
        self.canvases.append(Canvas(self.rng, len(self.canvases), width, height, style or self.style))
        return self.canvases[-1]

    def facade(self, width: float, height: float, bays: int, floors: int, kind: str = "") -> Canvas:
        """A wall with `floors` rows of `bays` windows and a cornice."""
        canvas = self.canvas(width, height)
        storey = (height - 1.5) / floors
        for floor in range(floors):
            canvas.row(bays, (floor + 0.25) * storey, width / bays * 0.42, storey * 0.62, kind)
            canvas.strip(0, (floor + 1) * storey - 0.2, width, 0.3, 0.85)
        canvas.band(height - 1.3)
        return canvas

    def polygon(self, outline: Array, canvas: Canvas, shift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Add a flat polygon; see `Face.on`."""
        self.faces.append(Face.on(outline, canvas.index, shift))

    def loft(self, lower: Array, upper: Array, *canvases: Canvas, climb: float = 0.0, step: int = 1) -> None:
        """Add faces between two rings, with the canvases in turn: front, right, back, left."""
        edge = float(np.linalg.norm(lower[1] - lower[0]))
        for side in range(0, len(lower), step):
            corners = np.stack(
                [lower[side], np.roll(lower, -1, 0)[side], np.roll(upper, -1, 0)[side], upper[side]]
            )
            shift = side * edge if len(lower) > 4 else 0.0, climb
            self.polygon(corners, canvases[side % len(canvases)], shift)

    def box(
        self, x: float, y: float, z: float, rx: float, ry: float, height: float, *canvases: Canvas
    ) -> None:
        """Add a box of half width `rx` and half depth `ry`."""
        self.loft(ring(x, y, z, rx, ry), ring(x, y, z + height, rx, ry), *(canvases or [self.stone]))
        self.polygon(ring(x, y, z + height, rx, ry), self.roof)

    def gable(
        self, x: float, y: float, z: float, rx: float, ry: float, height: float, *canvases: Canvas
    ) -> None:
        """Add a roof with its ridge along y."""
        self.loft(
            ring(x, y, z, rx, ry), ring(x, y, z + height, 0, ry), *(canvases or [self.stone, self.roof])
        )

    def gable_across(self, x: float, y: float, z: float, rx: float, ry: float, height: float) -> None:
        """Add a roof with its ridge along x."""
        self.loft(ring(x, y, z, rx, ry), ring(x, y, z + height, rx, 0), self.roof, self.stone)

    def spire(self, x: float, y: float, z: float, radius: float, height: float, sides: int = 4) -> None:
        """Add a pyramid or a cone."""
        self.loft(ring(x, y, z, radius, sides=sides), ring(x, y, z + height, 0, sides=sides), self.roof)

    def drum(
        self, x: float, y: float, z: float, radius: float, height: float, canvas: Canvas, sides: int = 20
    ) -> None:
        """Add a round tower or a column."""
        upper = ring(x, y, z + height, radius * (0.85 if sides == 8 else 1), sides=sides)
        self.loft(ring(x, y, z, radius, sides=sides), upper, canvas)
        self.polygon(upper, self.roof)

    def dome(self, x: float, y: float, z: float, radius: float, height: float, canvas: Canvas) -> None:
        """Add a dome."""
        angles = np.linspace(0, np.pi / 2 - 0.02, 8)
        rings = [ring(x, y, z + height * np.sin(a), radius * np.cos(a), sides=20) for a in angles]
        for lower, upper in pairwise(rings):
            self.loft(lower, upper, canvas, climb=float(lower[0, 2]) - z)

    def merlons(self, x: float, y: float, z: float, radius: float) -> None:
        """Add a battlement around a round tower."""
        lower, upper = ring(x, y, z, radius, sides=20), ring(x, y, z + 1.4, radius, sides=20)
        self.loft(lower, upper, self.stone, step=2)
        self.loft(lower[::-1], upper[::-1], self.stone, step=2)

    def arcade(
        self,
        y: float,
        width: float,
        depth: float,
        kind: str,
        arches: Iterable[tuple[float, float, float]],
        front: Canvas,
    ) -> None:
        """Add a wall with passages: `arches` are x, width and height, from left to right."""
        height = front.height
        curves = [arch(kind, span, rise)[::-1] + (x, 0) for x, span, rise in arches]
        for curve in curves:
            for start, end in pairwise(curve):
                corners = [(*start, y), (*start, y + depth), (*end, y + depth), (*end, y)]
                self.polygon(np.array(corners)[:, [0, 2, 1]], self.stone)
        foot = np.vstack([[(-width / 2, 0)], *curves, [(width / 2, 0)]])
        top = np.array([(width / 2, height), (-width / 2, height)])
        for at, outline in ((y, [*foot, *top]), (y + depth, [*foot[::-1], *top[::-1]])):
            self.polygon(np.insert(np.array(outline), 1, at, axis=1), front)
        lower, upper = (ring(0, y + depth / 2, z, width / 2, depth / 2) for z in (0, height))
        self.loft(np.roll(lower, -1, 0), np.roll(upper, -1, 0), self.stone, step=2)
        self.polygon(upper, self.roof)
