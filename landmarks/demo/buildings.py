"""The buildings of the demo photos, which are made up."""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from landmarks.demo.modelling import LEVELS, Canvas, Colour, Model, Scene, Style, ring


def church(model: Model, spires: bool) -> None:
    """A Gothic church: a nave with aisles behind a front of two towers."""
    reach, height = (10.5, 30.0) if spires else (9.5, 34.0)
    front, gable = model.canvas(14, 24), model.canvas(14, 9)
    front.opening(0, 0, 4.5, 8.5, door=True)
    front.band(9.3)
    front.rose(0, 14.8, 3.5 if spires else 2.8, 12 if spires else 8)
    front.band(20)
    gable.row(1, 1, 2, 4)
    tower = model.facade(9, height, 2 if spires else 1, 3 if spires else 4)
    tower.opening(0, 0, 3, 5.5, door=True)
    model.box(0, 20, 0, 7, 22, 18, front, model.facade(44, 18, 7, 2))
    model.gable(0, 20, 18, 7, 22, 9, gable, model.roof)
    model.box(0, -1, 0, 7, 2, 22, front, model.stone)
    model.box(0, 21, 0, 13, 20, 9, model.facade(44, 9, 7, 1))
    for side in (-1, 1):
        model.box(side * reach, -2, 0, 4.5, 4.5, height, tower)
        for y in np.arange(4.2, 42, 6):
            model.box(side * 13.6, y, 0, 0.9, 0.6, 11)
        for x, y in ((-4, -4), (4, -4), (-4, 4), (4, 4)):
            model.spire(side * reach + x, -2 + y, height, 0.7, 5, 6)
        if spires:
            model.spire(side * reach, -2, height, 4.3, 21, 8)
    if not spires:
        model.box(0, 26, 18, 5, 5, 18, model.facade(10, 18, 2, 2))
        model.spire(0, 26, 36, 5, 5)


def domed(model: Model, wings: bool) -> None:
    """A domed hall behind a portico of columns."""
    half, depth, radius, rise = (11, 12, 7.0, 8) if wings else (16, 16, 9.5, 5)
    columns, porch = (6, 7.5) if wings else (8, 9.0)
    side = model.facade(2 * depth, 14, 6, 2)
    model.box(0, depth, 0, half, depth, 14, model.facade(2 * half, 14, 5 if wings else 7, 2), side)
    lintel, pediment = model.canvas(2 * porch, 2), model.canvas(2 * porch, 4)
    lintel.band(0.3, 1.5)
    pediment.rose(0, 1.6, 1, 7)
    model.box(0, -2.5, 0, porch + 1, 3.5, 1)
    for x in np.linspace(-1, 1, columns) * (porch - 0.8):
        model.drum(x, -4, 1, 0.7, 9.5, model.stone, 8)
    model.box(0, -2.5, 10.5, porch, 2.5, 2, lintel)
    model.gable(0, -2.5, 12.5, porch, 2.5, 4.4, pediment, model.roof)
    model.drum(0, depth, 14, radius * 1.15, 3, model.stone)
    model.drum(0, depth, 17, radius, rise, model.facade(2 * np.pi * radius, 8, 20, 1))
    shell = model.canvas(2 * np.pi * radius, 14, model.style._replace(wall=model.style.roof))
    shell.pilasters(21 if wings else 11, 0.5)
    tall = radius * (1.25 if wings else 0.95)
    model.dome(0, depth, 17 + rise, radius, tall, shell)
    model.drum(0, depth, 16.5 + rise + tall, 1.6, 3.5, model.stone, 10)
    model.spire(0, depth, 20 + rise + tall, 1.8, 3, 10)
    if wings:
        for angle in np.arange(16) * np.pi / 8:
            model.drum(8.1 * np.cos(angle), depth + 8.1 * np.sin(angle), 17, 0.45, 7, model.stone, 8)
        model.drum(0, depth, 24, 8.8, 1, model.stone)
        wing, end = model.facade(22, 11, 7, 2), model.facade(14, 11, 4, 2)
        for x in (-22, 22):
            model.box(x, depth, 0, 11, 7, 11, wing, end)
    else:
        for x, y in ((-13, 3), (13, 3), (-13, 29), (13, 29)):
            model.drum(x, y, 14, 2.4, 4, model.stone)
            model.dome(x, y, 18, 2.4, 2.6, shell)


def tower(model: Model, hall: bool) -> None:
    """A tall square tower with a clock on each side."""
    half, height = (4.8, 30.0) if hall else (4.2, 34.0)
    shaft, head = model.facade(2 * half, height, 2 if hall else 3, 6), model.canvas(2 * half + 2, 9)
    head.band(0)
    head.clock(0, 4.4, 2.7)
    head.band(7.6)
    model.box(0, 0, 0, half, half, height, shaft)
    model.box(0, 0, height, half + 1, half + 1, 9, head)
    for x, y in np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)]) * (half + 0.5):
        model.spire(x, y, height + 9, 0.6, 3.5, 6)
    if hall:
        model.drum(0, 0, height + 9, 4, 8, model.facade(2 * np.pi * 4, 8, 10, 1), 10)
        model.dome(0, 0, height + 17, 4, 4.5, model.roof)
        model.spire(0, 0, height + 21, 0.9, 5, 8)
        wing, end = model.facade(16, 11, 5, 2), model.facade(12, 11, 3, 2)
        for x in (-12.8, 12.8):
            model.box(x, 2, 0, 8, 6, 11, wing, end)
            model.gable_across(x, 2, 11, 8, 6, 6)
    else:
        shaft.pilasters(4, 0.6)
        model.loft(ring(0, 0, height + 9, half + 1), ring(0, 0, height + 12, 2.4), model.roof)
        model.box(0, 0, height + 10, 2.4, 2.4, 5, model.facade(4.8, 5, 2, 1))
        model.spire(0, 0, height + 15, 2.6, 9)
        model.box(0, 0, 0, 7, 7, 6, model.facade(14, 6, 3, 1))


def fortress(model: Model, gate: bool) -> None:
    """Round towers with pointed roofs: a town gate, or a castle around its keep."""
    radius, height = (4.5, 17) if gate else (4, 14)
    wall = model.facade(2 * np.pi * radius, height, 7 if gate else 9, 3 if gate else 2)
    for x, y in ((-8.5, 0), (8.5, 0)) if gate else ((-15, 0), (15, 0), (-15, 26), (15, 26)):
        model.drum(x, y, 0, radius, height, wall)
        model.drum(x, y, height, radius + 0.5, 1.2, model.stone)
        model.merlons(x, y, height + 1.2, radius + 0.5)
        model.spire(x, y, height + 1.2, radius - 0.3, 9 if gate else 7, 20)
    if gate:
        front = model.canvas(12, 13)
        front.rose(0, 7, 0.9, 6)
        front.row(4, 8.3, 1.1, 2.6)
        front.band(11.4)
        model.arcade(-2.5, 12, 6, "round", [(0, 4.6, 6.2)], front)
        model.gable_across(0, 0.5, 13, 6, 3, 5)
        side = model.facade(18, 8, 6, 1, "flat")
        for x in (-21, 21):
            model.box(x, 0, 0, 9, 1.2, 8, side)
    else:
        front = model.canvas(26, 9)
        front.row(6, 4, 0.8, 2)
        front.band(7.5)
        model.arcade(-1, 26, 2, "pointed", [(0, 4, 5.5)], front)
        for x, y, rx, ry in ((-15, 13, 1, 12), (15, 13, 1, 12), (0, 26, 12, 1)):
            model.box(x, y, 0, rx, ry, 9, front)
        model.box(0, 15, 0, 6.5, 6.5, 24, model.facade(13, 24, 3, 5))
        model.spire(0, 15, 24, 5, 7)
        for step in np.arange(-6, 6.1, 2):
            model.box(step * 1.8, -0.5, 9, 0.5, 0.4, 1.2)
            for across in (-6, 6):
                model.box(step, 15 + across, 24, 0.5, 0.5, 1.4)
                model.box(across, 15 + step, 24, 0.5, 0.5, 1.4)


def arches(model: Model, bridge: bool) -> None:
    """Round arches: a triumphal arch, or a bridge over a river."""
    if bridge:
        front = model.canvas(76, 12)
        front.band(10.5)
        model.arcade(
            0, 76, 7, "round", [(-30, 11, 7), (-15, 12, 8), (0, 12, 9), (15, 12, 8), (30, 11, 7)], front
        )
        turret = model.facade(6, 9, 2, 2)
        for x in (-22.5, -7.5, 7.5, 22.5):
            front.rose(x, 8.6, 1.1, 8)
            for y in (0.0, 7.0):
                model.drum(x, y, 0, 1.5, 6, model.stone, 10)
                model.spire(x, y, 6, 1.5, 1.2, 10)
        for x in (-34, 34):
            model.box(x, 3.5, 12, 3, 3, 9, turret)
            model.spire(x, 3.5, 21, 3.4, 5)
        return
    front, attic = model.canvas(26, 17), model.canvas(25, 6)
    front.pilasters(4, 1.2)
    front.row(2, 9.5, 3, 3, "disc")
    front.band(15.5, 1.4)
    for x in (-8.5, 0.0, 8.5):
        attic.strip(x, 0.8, 6, 3.4, 0.8)
        for z in (1.4, 2.3, 3.2):
            attic.strip(x + model.rng.uniform(-0.4, 0.4), z, model.rng.uniform(3, 5), 0.25, 0.45)
    attic.band(4.7)
    model.arcade(0, 26, 9, "round", [(-9, 4, 7.5), (0, 7.5, 13.5), (9, 4, 7.5)], front)
    model.box(0, 4.5, 17, 12.5, 4, 6, attic)
    for x in (-12.0, -5.5, 5.5, 12.0):
        for y in (-0.9, 9.9):
            model.box(x, y, 0, 0.9, 0.9, 2)
            model.drum(x, y, 2, 0.7, 11, model.stone, 8)
            model.box(x, y, 13, 1, 1, 1)
            model.spire(x, y, 14, 0.6, 2.6, 6)


SANDSTONE = Style((0.74, 0.64, 0.5), (0.84, 0.77, 0.64), (0.36, 0.4, 0.44), (1.1, 0.5), "pointed")
LIMESTONE = Style((0.78, 0.74, 0.66), (0.88, 0.85, 0.78), (0.42, 0.56, 0.5), (1.4, 0.6), "round")
BRICK = Style((0.6, 0.36, 0.28), (0.8, 0.73, 0.62), (0.34, 0.36, 0.4), (0.6, 0.3), "round")
RUBBLE = Style((0.58, 0.54, 0.48), (0.7, 0.66, 0.58), (0.55, 0.3, 0.22), (0.8, 0.45), "flat")

# The second five resemble the first five, so a demo of few landmarks is an easy one.
LANDMARKS: dict[str, tuple[Callable[[Model, bool], None], bool, Style]] = {
    "twin_spire_cathedral": (church, True, SANDSTONE),
    "domed_basilica": (domed, False, LIMESTONE),
    "clock_tower": (tower, False, BRICK),
    "castle_keep": (fortress, False, RUBBLE),
    "triumphal_arch": (arches, False, LIMESTONE._replace(roof=(0.6, 0.58, 0.52))),
    "old_minster": (church, False, SANDSTONE._replace(wall=(0.7, 0.63, 0.53))),
    "city_capitol": (domed, True, LIMESTONE._replace(opening="flat", roof=(0.68, 0.68, 0.66))),
    "town_hall_belfry": (tower, True, BRICK._replace(wall=(0.62, 0.42, 0.32), opening="pointed")),
    "river_gate": (fortress, True, RUBBLE._replace(wall=(0.6, 0.53, 0.45), opening="round")),
    "old_bridge": (arches, True, RUBBLE._replace(opening="round")),
}

RIVERSIDE = {"old_bridge"}

# Colour, and size of the slabs or waves. The first four are what a square may be covered with.
GROUNDS: list[tuple[Colour, tuple[float, float]]] = [
    ((0.55, 0.52, 0.48), (0.8, 0.8)),
    ((0.36, 0.36, 0.37), (6.0, 6.0)),
    ((0.33, 0.42, 0.2), (3.0, 3.0)),
    ((0.62, 0.56, 0.44), (5.0, 5.0)),
    ((0.9, 0.91, 0.94), (7.0, 7.0)),
    ((0.24, 0.33, 0.36), (4.0, 0.7)),
]
SNOW, WATER = 4, 5
TILES = len(GROUNDS) + 1  # the texture of a house's roof
HOUSES = range(TILES + 1, TILES + 9)  # and of the fronts of eight houses


@lru_cache(maxsize=1)
def surroundings(seed: int) -> tuple[Canvas, ...]:
    """Grounds, roof and house fronts: the same for all landmarks, so that they don't give them away."""
    rng = np.random.default_rng([seed, 1 << 20])
    style = Style((0.7, 0.7, 0.7), (0.8, 0.8, 0.8), (0.45, 0.35, 0.3), (0.5, 0.25), "flat")
    canvases: list[Canvas] = []
    for index, (colour, stone) in enumerate(GROUNDS):
        canvases.append(Canvas(rng, index, 16, 16, style._replace(wall=colour, stone=stone)))
    model = Model(canvases, rng, style)
    for red, green, blue in rng.uniform(0.5, 0.8, (len(HOUSES), 1)) * rng.uniform(0.8, 1.1, (len(HOUSES), 3)):
        model.style = style._replace(wall=(red, green, blue))
        model.facade(12, 12, int(rng.integers(3, 6)), int(rng.integers(3, 5)))
    return tuple(canvases)


@lru_cache(maxsize=2)
def build(name: str, seed: int) -> Scene:
    """Build the landmark called `name`; the seed decides its stones, glass and ornament."""
    recipe, variant, style = LANDMARKS[name]
    model = Model(list(surroundings(seed)), np.random.default_rng([seed, 1 << 21, *name.encode()]), style)
    recipe(model, variant)
    pixels = [canvas.pixels for canvas in model.canvases]
    width = max(image.shape[1] for image in pixels)
    # Padding by more of the same keeps one texture out of the shrunk copies of the next.
    padding = [((0, 8 + -image.shape[0] % 8), (0, width - image.shape[1]), (0, 0)) for image in pixels]
    levels = [np.vstack([np.pad(image, pad, "wrap") for image, pad in zip(pixels, padding, strict=True)])]
    for _ in range(LEVELS - 1):
        levels.append(np.asarray(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)))
    tops = np.cumsum([0] + [len(image) + pad[0][1] for image, pad in zip(pixels, padding, strict=True)])
    slots = [(top, image.shape[1], image.shape[0]) for top, image in zip(tops, pixels, strict=False)]
    corners = np.vstack([face.outline for face in model.faces])
    reach, height = float(np.abs(corners[:, 0]).max()), float(corners[:, 2].max())
    return Scene(model.faces, levels, np.array(slots, np.float32), reach, height, name in RIVERSIDE)
