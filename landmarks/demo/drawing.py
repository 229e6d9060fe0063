"""Demo photos. They are drawn, not taken: no building in them exists.

Each landmark is a small 3-D model (`landmarks.demo.buildings`). Each photo is a true perspective view of it
through a pinhole camera, with a light, a weather, a street, passers-by and a photographer of its own.
"""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from PIL import ExifTags, Image

from landmarks.cores import CORES
from landmarks.demo.buildings import GROUNDS, HOUSES, LANDMARKS, SNOW, TILES, WATER, build
from landmarks.demo.modelling import LEVELS, TEXELS, Array, Colour, Face, Scene, arch, cloudiness, ring
from landmarks.files import filling
from landmarks.progress import tqdm

SAMPLES = 1.5  # drawn pixels per photo pixel, each way; shrinking then smooths the edges
SHADOWS = 512  # pixels of the shadow map, each way


def draw(
    folder: Path, *, classes: int = 10, photos: int = 30, seed: int = 0, workers: int | None = None
) -> None:
    """Draw `photos` photos of each of the first `classes` landmarks as `folder/<landmark>/<nnn>.jpg`.

    `folder` is replaced as a whole once all are drawn. A file depends on `seed`, its landmark and its
    number alone: not on `workers` (processes; by default one per core) nor on what else is drawn.
    """
    names = list(LANDMARKS)[:classes]
    with filling(folder) as new:
        for name in names:
            (new / name).mkdir()
        jobs = [(new / name / f"{n:03}.jpg", name, n, seed) for name in names for n in range(photos)]
        # Spawned, since a fork would inherit the locks of whatever threads the caller runs.
        # Windows waits for 61 of them at most.
        with ProcessPoolExecutor(workers or min(CORES, 61), get_context("spawn"), _start) as pool:
            drawn = pool.map(_draw_one, *zip(*jobs, strict=True), chunksize=max(photos // 3, 1))
            for _ in tqdm(drawn, "drawing photos", len(jobs), unit="photo"):
                pass


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Else the workers of a killed stage would wait for work for ever.
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _draw_one(path: Path, name: str, number: int, seed: int) -> None:
    rng = generator(name, number, seed)
    orientation, turns = stored_as(rng)
    pixels = photograph(build(name, seed), rng)
    exif = Image.Exif()
    if turns:
        exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))
    image.save(path, quality=int(rng.integers(55, 96)), exif=exif)


def generator(name: str, number: int, seed: int) -> Generator:
    """What decides everything about a photo but the landmark."""
    return np.random.default_rng([seed, list(LANDMARKS).index(name), number])


def stored_as(rng: Generator) -> tuple[int, int]:
    """An EXIF orientation, mostly 1, and the quarter turns to the left that make up for it."""
    orientations = ((1, 0), (6, 1), (8, -1), (3, 2))
    return orientations[rng.choice(4, p=(0.93, 0.03, 0.02, 0.02))]


class Camera(NamedTuple):
    """A pinhole camera; the rows of `axes` (3, 3) are right, down and forward, `focal` is in pixels."""

    eye: Array
    axes: Array
    focal: float
    size: tuple[int, int]  # width and height in pixels


def look_at(eye: Array, target: Array, focal: float, size: tuple[int, int], roll: float = 0.0) -> Camera:
    """The camera at `eye` (3,) with `target` (3,) in the middle of its frame, turned by `roll` radians."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0, 0, 1))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    axes = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
    return Camera(eye, axes, focal, size)


def project(camera: Camera, points: Array) -> tuple[Array, Array, Array]:
    """Pixel positions x and y (...) of `points` (..., 3), and their depths along the line of sight."""
    # Spelt out: a product of matrices would start threads, and many processes share the cores.
    eye, axes = camera.eye.astype(points.dtype), camera.axes.astype(points.dtype)
    x, y, z = (points[..., axis] - eye[axis] for axis in range(3))
    across, down, depth = (axis[0] * x + axis[1] * y + axis[2] * z for axis in axes)
    scale, (width, height) = camera.focal / depth, camera.size
    return across * scale + (width / 2 - 0.5), down * scale + (height / 2 - 0.5), depth


class Faces(NamedTuple):
    """Faces as arrays (N, ...), named as in `Face`. The last is the ground, which has no outline."""

    outlines: list[Array]
    normal: Array
    right: Array
    up: Array
    origin: Array
    texture: Array


def gather(faces: list[Face], ground: int) -> Faces:
    """Stack `faces`, and a ground z = 0 with texture `ground`."""
    right, up, normal = np.eye(3)
    flat = Face(np.zeros((0, 3)), normal, right, up, np.zeros(3), ground)
    columns = list(zip(*faces, flat, strict=True))
    return Faces(list(columns[0]), *(np.array(column) for column in columns[1:]))


def rasterise(camera: Camera, faces: Faces) -> tuple[Array, Array]:
    """What each pixel sees: nearness (H, W) float32, which is 1 / depth, and the face (H, W), -1 for sky.

    Faces seen from behind, or nearer than half a metre, are left out.
    """
    width, height = camera.size
    xs, ys = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    # Over a plane 1 / depth is a linear function of the pixel's x and y.
    facing = ((camera.eye - faces.origin) * faces.normal).sum(1)
    x, y, z = -camera.axes @ faces.normal.T / np.where(facing > 1e-6, facing, np.inf)
    base = z * camera.focal - x * (width / 2 - 0.5) - y * (height / 2 - 0.5)
    planes = (np.stack([x, y, base], 1) / camera.focal).astype(np.float32)
    *corners_xy, depth = project(camera, np.vstack(faces.outlines))
    corners = np.stack(corners_xy, axis=1)
    ends = np.cumsum([len(outline) for outline in faces.outlines[:-1]])
    starts = np.append(0, ends[:-1])
    first = np.maximum(np.floor(np.minimum.reduceat(corners, starts)), 0).astype(int)
    last = np.minimum(np.ceil(np.maximum.reduceat(corners, starts)) + 1, camera.size).astype(int)
    drawn = (facing[:-1] > 1e-6) & (np.minimum.reduceat(depth, starts) > 0.5) & (first < last).all(1)

    nearest = np.maximum(xs * planes[-1, 0] + ys * planes[-1, 1] + planes[-1, 2], 0)
    seen = np.where(nearest > 0, len(ends), -1).astype(np.int32)
    for index in np.flatnonzero(drawn):
        (left, top), (right, bottom) = first[index], last[index]
        mask = np.zeros((bottom - top, right - left), np.uint8)
        outline = np.round((corners[starts[index] : ends[index]] - first[index]) * 16).astype(np.int32)
        cv2.fillPoly(mask, [outline], 1, cv2.LINE_8, 4)
        x, y, z = planes[index]
        here = xs[left:right] * x + (ys[top:bottom] * y + z)
        block = nearest[top:bottom, left:right]
        won = (here > block) & (mask > 0)
        np.copyto(block, here, where=won)
        np.copyto(seen[top:bottom, left:right], index, where=won)
    return nearest, seen


class Weather(NamedTuple):
    """Light on the walls from the sun and from all round, colours of the sky, and how far one sees."""

    share: float  # of the photos
    sun: Colour
    ambient: Colour
    zenith: Colour
    horizon: Colour
    sight: float  # metres
    lit: float = 0.0  # how brightly the windows shine


WEATHERS = {
    "clear": Weather(0.32, (0.95, 0.9, 0.8), (0.42, 0.46, 0.55), (0.25, 0.45, 0.8), (0.7, 0.8, 0.92), 1500),
    "golden": Weather(0.14, (1.1, 0.7, 0.4), (0.4, 0.38, 0.46), (0.36, 0.44, 0.66), (0.98, 0.75, 0.5), 700),
    "overcast": Weather(0.22, (0, 0, 0), (0.84, 0.85, 0.86), (0.7, 0.73, 0.77), (0.88, 0.89, 0.91), 600),
    "fog": Weather(0.05, (0, 0, 0), (0.75, 0.75, 0.75), (0.76, 0.77, 0.78), (0.78, 0.79, 0.8), 90),
    "rain": Weather(0.07, (0, 0, 0), (0.6, 0.62, 0.66), (0.45, 0.48, 0.53), (0.62, 0.64, 0.68), 200),
    "snow": Weather(0.06, (0, 0, 0), (0.8, 0.83, 0.88), (0.72, 0.75, 0.8), (0.85, 0.87, 0.9), 200),
    "dusk": Weather(0.07, (0, 0, 0), (0.38, 0.36, 0.46), (0.14, 0.16, 0.36), (0.78, 0.5, 0.42), 400, 0.8),
    "night": Weather(
        0.07, (1, 0.75, 0.45), (0.16, 0.16, 0.22), (0.03, 0.04, 0.1), (0.16, 0.14, 0.18), 600, 1
    ),
}
SIZES = ((320, 240), (320, 214), (240, 320))  # width and height in pixels


def photograph(scene: Scene, rng: Generator) -> Array:
    """A photo (H, W, 3) uint8 of `scene`; `rng` decides all but the landmark."""
    name = rng.choice(list(WEATHERS), p=[weather.share for weather in WEATHERS.values()])
    weather = WEATHERS[name]
    width, height = SIZES[rng.choice(3, p=(0.65, 0.15, 0.2))]
    camera, azimuth = aim(scene, (round(width * SAMPLES), round(height * SAMPLES)), rng)
    square = SNOW if name == "snow" else int(rng.integers(SNOW))
    around = bank(scene, camera, square) if scene.water else houses(scene, azimuth, rng)
    faces = gather(scene.faces + around, WATER if scene.water else square)
    # The lamps that light a building at night stand on the ground.
    climb = {"night": 0.15, "golden": rng.uniform(0.15, 0.5)}.get(name, rng.uniform(0.5, 1.1))
    bearing = azimuth + rng.uniform(-1.3, 1.3)
    sun = np.array([np.sin(bearing) * np.cos(climb), -np.cos(bearing) * np.cos(climb), np.sin(climb)])
    image = render(scene, faces, camera, weather, sun, rng)
    obstruct(image, scene, camera, weather, rng)
    if name in ("rain", "snow"):
        precipitate(image, name == "rain", rng)
    return develop(image, (width, height), rng)


def aim(scene: Scene, size: tuple[int, int], rng: Generator) -> tuple[Camera, float]:
    """Where the photographer stands, and on what side in radians (0 is in front of the building)."""
    azimuth = np.radians(rng.uniform(-60, 60))
    focal = size[0] * rng.uniform(0.8, 1.7)
    apparent = max(scene.height / size[1], 1.6 * scene.reach / size[0])
    distance = max(focal * apparent / rng.uniform(0.75, 1.35), scene.reach * 1.3 + 12)
    aside = scene.reach * rng.uniform(-0.3, 0.3)
    level = 1.7 if rng.uniform() < 0.7 else rng.uniform(3, 25)
    eye = np.array([np.sin(azimuth) * distance, -np.cos(azimuth) * distance, level])
    height = scene.height * rng.uniform(0.3, 0.6)
    target = np.array([np.cos(azimuth) * aside, np.sin(azimuth) * aside, height])
    return look_at(eye, target, float(focal), size, rng.normal(0, 0.025)), float(azimuth)


def houses(scene: Scene, azimuth: float, rng: Generator) -> list[Face]:
    """Some houses behind the landmark and beside it, as seen from `azimuth`."""
    faces = []
    for _ in range(rng.integers(2, 9)):
        across, behind = rng.uniform(-80, 80), scene.reach * 1.5 + rng.uniform(25, 90)
        x = across * np.cos(azimuth) - behind * np.sin(azimuth)
        y = across * np.sin(azimuth) + behind * np.cos(azimuth)
        lower = ring(x, y, 0, rng.uniform(6, 14), rng.uniform(6, 10))
        upper = lower + (0, 0, rng.uniform(7, 20))
        ridge = (upper + upper[::-1]) / 2 + (0, 0, rng.uniform(2, 5))
        front = int(rng.choice(HOUSES))
        for start, end in ((0, 1), (1, 2), (2, 3), (3, 0)):
            faces.append(Face.on(np.stack([lower[start], lower[end], upper[end], upper[start]]), front))
            faces.append(Face.on(np.stack([upper[start], upper[end], ridge[end], ridge[start]]), TILES))
    return faces


def bank(scene: Scene, camera: Camera, texture: int) -> list[Face]:
    """The near bank of the river, for the photographer to stand on."""
    forward = camera.axes[2, :2] / np.linalg.norm(camera.axes[2, :2])
    right = np.array([forward[1], -forward[0]])
    far = 0.7 * (np.linalg.norm(camera.eye[:2]) - scene.reach)
    corners = [forward * depth + right * side for depth, side in ((1, -90), (1, 90), (far, 90), (far, -90))]
    return [Face.on(np.column_stack([camera.eye[:2] + corners, np.full(4, 0.02)]), texture)]


def render(scene: Scene, faces: Faces, camera: Camera, weather: Weather, sun: Array, rng: Generator) -> Array:
    """Colours (H, W, 3) float32 of buildings, ground and sky; `sun` (3,) points to the sun."""
    # Within, the three colours or axes come first, which NumPy is several times faster at.
    nearness, seen = rasterise(camera, faces)
    x, y = ((np.arange(n) - (n / 2 - 0.5)) / camera.focal for n in camera.size)
    right, down, forward = camera.axes[..., None, None]
    rays = (right * x).astype(np.float32) + (down * y[:, None] + forward).astype(np.float32)
    depth = 1 / np.maximum(nearness, 1e-4)
    where = rays * depth + vector(camera.eye)

    albedo, window = paint(scene, faces, camera, seen, where)
    ground = vector(GROUNDS[faces.texture[-1]][0])
    # Seen from far off the pattern of the ground is finer than a pixel.
    albedo = ground + (albedo - ground) * np.where(seen == len(faces.texture) - 1, np.exp(depth / -50), 1)
    direct = np.maximum(faces.normal @ sun, 0).astype(np.float32)[seen]
    if max(weather.sun) > 0:
        direct *= ~shaded(where, faces, sun, max(scene.reach, scene.height))
    # Less of the sky reaches a wall than a roof, and little an underside.
    openness = (0.8 + faces.normal @ (0.06, 0, 0.2)).astype(np.float32)[seen]
    image = albedo * (openness * vector(weather.ambient) + direct * vector(weather.sun))
    image += (vector((1, 0.8, 0.45)) - image) * (window * np.float32(weather.lit * 0.85))
    horizon, zenith = vector(weather.horizon), vector(weather.zenith)
    image = horizon + (image - horizon) * np.exp(depth / -np.float32(weather.sight))

    steep = np.sqrt(np.clip(rays[2] / np.hypot(rays[0], rays[1]) * 1.3, 0, 1))
    sky = horizon + (zenith - horizon) * steep
    noise = cv2.resize(cloudiness(rng, camera.size[0] // 3, camera.size[1] // 3), camera.size)
    clouds = np.clip(noise * 0.5 + rng.uniform(-0.8, 0.6), 0, 1) * np.float32(0.7)
    sky += (horizon * 0.5 + 0.5 * horizon.max() - sky) * clouds
    return np.ascontiguousarray(np.where(seen < 0, sky, image).transpose(1, 2, 0))


def vector(values: Colour | Array) -> Array:
    """Three numbers as float32 (3, 1, 1), to go with (3, H, W)."""
    return np.array(values, np.float32)[:, None, None]


def paint(scene: Scene, faces: Faces, camera: Camera, seen: Array, where: Array) -> tuple[Array, Array]:
    """The textures of the faces `seen` (H, W) at the points `where` (3, H, W).

    Returns colour (3, H, W), and how much is window (H, W).
    """

    def steps(axes: Array) -> Array:
        start = (axes * faces.origin).sum(1)
        x, y, z, offset = np.column_stack([axes, -start]).T.astype(np.float32) * TEXELS
        return np.asarray(where[0] * x[seen] + where[1] * y[seen] + where[2] * z[seen] + offset[seen])

    top, width, height = (part[seen] for part in scene.slots[faces.texture].T)
    column = np.mod(steps(faces.right) + width / 2, width)
    row = top + np.mod(height - steps(faces.up), height)
    # One size of texture does for a whole photo: all of a building is about equally far.
    texels_a_pixel = TEXELS * np.linalg.norm(camera.eye[:2]) / camera.focal
    level = int(np.clip(np.round(np.log2(texels_a_pixel)), 0, LEVELS - 1))
    column, row = column / 2**level - np.float32(0.5), row / 2**level - np.float32(0.5)
    texels = cv2.remap(scene.levels[level], column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    colours = np.stack(cv2.split(texels)) / np.float32(255)
    return colours[:3], colours[3]


def shaded(where: Array, faces: Faces, sun: Array, reach: float) -> Array:
    """Whether something stands between the sun and each of the points `where` (3, H, W): (H, W) bool."""
    middle, far = np.array([0, 0, reach * 0.4]), 600
    lamp = look_at(middle + sun * far, middle, SHADOWS / 2 * far / (reach * 1.7), (SHADOWS, SHADOWS))
    nearness, _ = rasterise(lamp, faces)
    *pixels, depth = project(lamp, where.transpose(1, 2, 0))
    x, y = (np.clip(np.round(part), 0, SHADOWS - 1).astype(np.int32) for part in pixels)
    return np.asarray(depth * nearness[y, x] > 1 + 0.4 / far)


Shapes = list[tuple[Array, Array]]  # outlines (K, 2) in metres, standing on z = 0, and their colours


def shape(kind: str, x: float, z: float, width: float, height: float) -> Array:
    """Outline (K, 2) of an `arch` moved to `x` and up to `z`."""
    return arch(kind, width, height) + (x, z)


def person(rng: Generator) -> Shapes:
    """Someone standing, from afar."""
    tall, skin = rng.uniform(1.5, 1.9), np.array([0.75, 0.58, 0.46]) * rng.uniform(0.4, 1)
    coat, legs = rng.uniform(0.1, 0.6) + rng.uniform(-0.1, 0.15, 3), rng.uniform(0.08, 0.3, 3)
    shapes = [(shape("flat", side * 0.1, 0, 0.16, tall / 2), legs) for side in (-1, 1)]
    body = shape("round", 0, tall * 0.42, 0.46, tall * 0.43)
    return [*shapes, (body, coat), (shape("disc", 0, tall * 0.85, 0.2, tall * 0.15), skin)]


def tree(rng: Generator) -> Shapes:
    """A tree in leaf, lighter towards the top, or a bare one."""
    tall, wide, bark = rng.uniform(5, 11), rng.uniform(1.6, 3.2), np.array([0.28, 0.22, 0.17])
    leaf = np.array([rng.uniform(0.2, 0.5), rng.uniform(0.32, 0.45), 0.14])
    shapes = [(shape("pointed", 0, 0, 0.4, tall * 0.8), bark)]
    bare, blob = rng.uniform() < 0.25, arch("disc", 2, 1.6)
    for angle, far, shade in rng.uniform((0, 0, -0.15), (2 * np.pi, 1, 0.15), (60 if bare else 320, 3)):
        x, z = np.cos(angle) * wide * far**0.5, tall * (0.68 + np.sin(angle) * 0.32 * far**0.5)
        if bare:
            fork = tall * rng.uniform(0.3, 0.6)
            shapes.append((np.array([(-0.04, fork), (0.04, fork), (x, z)]), bark))
        else:
            brightness = 0.8 + 0.5 * np.sin(angle) * far + shade
            shapes.append((blob * wide * 0.1 + (x, z), leaf * brightness))
    return shapes


def lamp_post(rng: Generator) -> Shapes:
    """A street lamp."""
    tall, iron = rng.uniform(3.5, 6), np.array([0.14, 0.15, 0.15])
    shapes = [(shape("flat", 0, 0, 0.14, tall), iron), (shape("round", 0, 0, 0.4, 0.8), iron)]
    glass = shape("disc", 0, tall, 0.45, 0.6)
    return [*shapes, (glass, np.array([1.2, 1.1, 0.85])), (shape("flat", 0, tall + 0.5, 0.5, 0.12), iron)]


def car(rng: Generator) -> Shapes:
    """A car from its side."""
    colour, way = rng.uniform(0.1, 0.8) + rng.uniform(-0.1, 0.15, 3), rng.choice([-1, 1])
    x, z = (-2.1, -2.1, -1.2, -0.7, 0.8, 1.5, 2.1, 2.1), (0.3, 0.85, 0.95, 1.45, 1.45, 0.9, 0.8, 0.3)
    body = (np.column_stack([x, z]), colour)
    glass = (np.array([(-1.0, 0.95), (-0.6, 1.38), (0.72, 1.38), (1.2, 0.95)]), np.array([0.15, 0.18, 0.2]))
    wheels = [(shape("disc", x, 0, 0.66, 0.66), np.full(3, 0.06)) for x in (-1.3, 1.3)]
    return [(outline * (way, 1), tone) for outline, tone in (body, glass, *wheels)]


def obstruct(image: Array, scene: Scene, camera: Camera, weather: Weather, rng: Generator) -> None:
    """Put people and things between photographer and building, far ones first; changes `image`."""
    forward = camera.axes[2] * (1, 1, 0) / np.linalg.norm(camera.axes[2, :2])
    right = np.array([forward[1], -forward[0], 0])
    clear = np.linalg.norm(camera.eye[:2]) - scene.reach
    light = np.array(weather.ambient) + 0.35 * np.array(weather.sun)
    kinds = (person, person, person, tree, lamp_post, *([] if scene.water else [car]))
    for depth in -np.sort(-rng.uniform(0.2, 0.7, rng.integers(0, 7)) * clear):
        half = depth * camera.size[0] / camera.focal / 2
        foot = camera.eye * (1, 1, 0) + forward * depth + right * rng.uniform(-half, half)
        *pixel, away = project(camera, foot)
        for outline, colour in kinds[rng.integers(len(kinds))](rng):
            corners = np.round((outline * (1, -1) * camera.focal / away + pixel) * 16).astype(np.int32)
            cv2.fillPoly(image, [corners], (colour * light).tolist(), cv2.LINE_8, 4)


def precipitate(image: Array, rain: bool, rng: Generator) -> None:
    """Streaks of rain, or flakes of snow; changes `image`."""
    height, width = image.shape[:2]
    layer, slant = np.zeros((height, width), np.float32), rng.uniform(-6, 6)
    for x, y, size in rng.uniform((0, 0, 0.4), (width, height, 1), (260, 3)):
        end = (x + slant * size, y + 18 * size) if rain else (x, y)
        points = np.round([(x, y), end]).astype(np.int32)
        cv2.line(layer, points[0].tolist(), points[1].tolist(), size, 1 if rain else round(1 + 2 * size))
    image += (0.95 - image) * (cv2.GaussianBlur(layer, (0, 0), 0.8) * (0.35 if rain else 0.8))[..., None]


def develop(image: Array, size: tuple[int, int], rng: Generator) -> Array:
    """What lens and sensor make of the light: (H, W, 3) uint8 at `size` (width, height)."""
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    if rng.uniform() < 0.35:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3)))
    image = image * (0.45 / image.mean()) ** 0.5 * rng.uniform(0.8, 1.2) * rng.normal(1, 0.03, 3)
    if rng.uniform() < 0.04:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    image = 0.5 + (image - 0.5) * rng.uniform(0.85, 1.2)
    xs, ys = np.meshgrid(*(np.linspace(-1, 1, n) for n in size))
    image *= 1 - rng.uniform(0, 0.15) * (xs**2 + ys**2)[..., None]
    image += rng.standard_normal(image.shape) * rng.uniform(0.004, 0.035)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
