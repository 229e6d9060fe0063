"""Photos from files to arrays: decode, orient, resize; many at a time."""

import io
import re
import struct
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from landmarks.cores import CORES
from landmarks.errors import InputError
from landmarks.photos import _tiffs

SPARE = 3
"""A side is decoded to at least this many times the pixels that are shown, if the photo has them. The least
cosine of a descriptor to that of the photo decoded whole is then above 0.999; with 2 it is 0.995
(docs/benchmarks.md)."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

MAX_SIDE = 65_535
"""Pixels of the longest side that is read: a JPEG has no longer one, so what a camera stitches fits. Pillow
keeps a pointer for each row and resizes by a table for each column: a PNG of 6 kB, 50,000,000 pixels wide and
one high, took 956 MB, while one of as many pixels and this long a side takes no more than a square one."""

_BEGINNINGS = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|BM|II|MM", re.DOTALL)

# Size is judged by `create_csv.max_pixels`; Pillow's error, at twice its warning, stays in force.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# Of broken tags it warns without a name; where they matter the photo is rejected with a reason.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

_UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Stored = Path | bytes
"""A photo: the path of its file, or the content of one."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2: opposite corners, in pixels of the upright photo from its top left."""


class Crop(NamedTuple):
    """What of the photo `path` lies in `box`."""

    path: Path
    box: Box


Source = Stored | Crop

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode(source: Stored, at_least: int | None = None) -> Image.Image:
    """The first frame of the photo `source`, in whatever mode it is stored, decoded to the last pixel.

    A JPEG whose sides stay `at_least` that long is decoded at 1/2, 1/4 or 1/8 of its size, which costs a
    fraction of the time.

    The format is told by the content, not by the name. Raises `ValueError` with the reason, without
    the path, if the file is not a photo in one of `FORMATS` that Pillow decodes.
    """
    with opened(source) as image:
        if at_least:
            image.draft(None, (at_least, at_least))
        image.load()
        return image


def dimensions(source: Stored) -> tuple[int, int]:
    """Width and height of what `decode` would decode, in pixels, told by the header alone.

    Raises `ValueError` as `decode` does.
    """
    with opened(source) as image:
        return _extent(image)


def _extent(image: Image.Image) -> tuple[int, int]:
    """The size of `image`, or of its tiles where a TIFF has larger ones, since they are decoded whole."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = [image.tag_v2.get(tag) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)]
        across, down = (side if isinstance(side, int) else 0 for side in tile)
        return max(width, across), max(height, down)
    return width, height


@contextmanager
def opened(source: Stored, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open the photo `source`, its header read; raises `ValueError` as `decode` does, until it is closed.

    Raises it, too, if a side is longer than `MAX_SIDE`, or the photo has over `max_pixels` pixels.
    """
    with _file(source) as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError(_unknown(file)) from None
        if isinstance(image, TiffImagePlugin.TiffImageFile) and _tiffs.misread(image.tag_v2):
            raise ValueError(_unread(image.tag_v2))
        width, height = _extent(image)
        if max(width, height) > MAX_SIDE:
            raise ValueError(f"{width}x{height} has a side of more than {MAX_SIDE} pixels")
        if max_pixels is not None and width * height > max_pixels:
            raise ValueError(f"{width}x{height} is more than create_csv.max_pixels ({max_pixels})")
        yield image


def stored(path: Path) -> bytes:
    """The content of the file `path`, or only its first bytes if they tell that it is not a photo.

    A film among the photos may be larger than the memory. Raises `ValueError` as `decode` does.
    """
    with _file(path) as file:
        beginning = file.read(64)
        if not _BEGINNINGS.match(beginning):
            return beginning
        file.seek(0)
        return file.read()


@contextmanager
def _file(source: Stored) -> Iterator[BinaryIO]:
    """Open `source`; whatever the system or Pillow raises meanwhile becomes a `ValueError`."""
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise ValueError("not a regular file")  # a pipe, say, which would be waited on for ever
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            if not file.read(1):
                raise ValueError("empty file")
            file.seek(0)
            yield file
    except Image.DecompressionBombError:
        raise ValueError(
            f"decompression bomb: more than Pillow's limit of {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels"
        ) from None
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except MemoryError:
        raise ValueError("does not fit into memory") from None
    except (OSError, SyntaxError, EOFError, LookupError, TypeError, OverflowError) as error:
        # Pillow's plugins raise any of these on broken content.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"does not decode: {reason}") from None


def _unknown(file: BinaryIO) -> str:
    """Why Pillow does not know the format of `file`."""
    file.seek(0)
    beginning = file.read(4)
    if beginning == _tiffs.BIG_BIG_ENDIAN:
        return "does not decode: a BigTIFF of big-endian byte order is not read; save it as PNG"
    if tags := _tiffs.directory(file):
        return _unread(tags)
    if beginning in _tiffs.BEGINNINGS:
        return "does not decode: a TIFF whose first page is missing or broken"
    return f"not an image in one of the formats {', '.join(FORMATS)}"


def _unread(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    return f"does not decode: a TIFF of {_tiffs.samples(tags)} is not read; save it as PNG"


def read(source: Source, at_least: int | None = None) -> Image.Image:
    """The photo `source` upright (by its EXIF orientation) in mode RGB, `at_least` as in `decode`.

    Greys of more than 8 bits are scaled to 8 (16 bits by `_tiffs.white`, floating point by the largest
    value); transparent pixels show white. The box of a `Crop` is rounded to whole pixels and clipped to the
    photo. Raises `InputError` naming the file if it does not decode, or the box is empty.
    """
    if isinstance(source, Crop):
        # Decoded whole: the box is in its pixels, and what is cut out may be small.
        return _cropped(read(source.path), source)
    try:
        return to_rgb(decode(source, at_least=at_least))
    except ValueError as error:
        raise InputError(f"{source if isinstance(source, Path) else 'photo'}: {error}") from None


def _cropped(image: Image.Image, crop: Crop) -> Image.Image:
    left, top, right, bottom = (round(corner) for corner in crop.box)
    box = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    if box[0] >= box[2] or box[1] >= box[3]:
        corners = ",".join(f"{corner:g}" for corner in crop.box)
        raise InputError(
            f"{crop.path}: the box {corners} (x1,y1,x2,y2) has no pixel of the photo, which is "
            f"{image.width}x{image.height}"
        )
    return image.crop(box)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` upright (by its EXIF orientation) in mode RGB."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    turn = upright(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith(("I", "F")):
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
        grey = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
        largest = float(grey.max())
        top = _tiffs.white(tags, int(largest)) if image.mode.startswith("I") else max(largest, 1e-12)
        shown = (grey.clip(0, top) * (255 / top)).round().astype(np.uint8)
        inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _tiffs.WHITE_IS_ZERO
        return Image.fromarray(~shown if inverted else shown).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Transpose | None:
    """What turns `image` upright by its EXIF orientation; None if there is none or the block is broken.

    `ImageOps.exif_transpose` also writes the whole block anew, which any odd entry in it makes fail.
    """
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    except (SyntaxError, OSError, ValueError, TypeError, LookupError, struct.error):
        return None


@dataclass(frozen=True)
class Views:
    """How a photo is shown to a network."""

    size: int
    """Pixels of one side; which side depends on `resize`."""
    resize: str = "stretch"
    """As in `fitted`."""
    fill: tuple[int, int, int] = (0, 0, 0)
    scales: tuple[float, ...] = (1.0,)
    """Of `size`, with one view for each."""
    flip: bool = False
    """Whether each view is also shown mirrored."""

    @property
    def sizes(self) -> list[int]:
        """`size` at each of the scales, to the nearest pixel."""
        return [round(self.size * scale) for scale in self.scales]

    @property
    def count(self) -> int:
        """How many views a photo has."""
        return len(self.scales) * (1 + self.flip)

    @property
    def fixed(self) -> bool:
        """Whether all photos come in one size."""
        return self.resize != "keep"

    def of(self, photo: Source) -> list[NDArray[np.uint8]]:
        """The views of `photo`, scale by scale: uint8 (H, W, 3), RGB."""
        image = read(photo, SPARE * max(self.sizes))
        shown = [np.asarray(fitted(image, size, self.resize, self.fill)) for size in self.sizes]
        return [side for view in shown for side in ((view, view[:, ::-1]) if self.flip else (view,))]


def fitted(image: Image.Image, size: int, resize: str, fill: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """`image` resized by `resize`.

    `stretch`: the whole of it, stretched to `size` x `size`. `crop`: the largest square in its middle,
    resized to that size. `pad`: its longest side resized to `size`, in the middle of a square of the colour
    `fill`. `keep`: its longest side resized to `size`, its aspect ratio kept.
    """
    if resize == "stretch":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    width, height = image.size
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        middle = image.crop((left, top, left + side, top + side))
        return middle.resize((size, size), Image.Resampling.BILINEAR)
    longest = max(width, height)
    whole = image.resize(
        (max(1, round(size * width / longest)), max(1, round(size * height / longest))),
        Image.Resampling.BILINEAR,
    )
    if resize == "keep":
        return whole
    square = Image.new("RGB", (size, size), fill)
    square.paste(whole, ((size - whole.width) // 2, (size - whole.height) // 2))
    return square


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Map `function` over `items` in threads, with the results in the order of the items.

    At most four results per worker wait to be taken, so memory does not grow with the items.
    `workers`: threads, by default one per core.
    """
    workers = workers or CORES
    rest = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque(
            pool.submit(function, item) for item in islice(rest, 4 * workers)
        )
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def batches(
    photos: Sequence[Source], views: Views, batch_size: int, workers: int | None = None
) -> Iterator[list[list[NDArray[np.uint8]]]]:
    """The views of the `photos`, `batch_size` photos at a time, in order, decoded ahead in threads."""
    decoded = in_order(views.of, photos, workers)
    while batch := list(islice(decoded, batch_size)):
        yield batch
