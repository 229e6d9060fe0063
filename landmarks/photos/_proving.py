"""Proving that photos are whole, since decoders pass over most damage in silence; and the greys of photos."""

import io
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from landmarks.photos import _tiffs
from landmarks.photos.images import decode, opened, to_rgb, upright

SIDE = 32

_JPEG_SIDE = 3 * SIDE
"""To which JPEGs are decoded at least, at 1/2, 1/4 or 1/8 of their size. That is off by one level of grey in
the mean, since edges are rounded up to whole pixels, and by one bit in every second hash of 64 (vietnam5)."""

_NOT_SIDEWAYS = (
    None,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
)

_UNPROVED = ("tj", "Invalid SOS parameters")
"""How complaints begin that are not of damage: TurboJPEG's, of a subsampling that it has no name for, and
libjpeg's, of parameters that it does without and some cameras leave 0."""

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # but those of restarts, which are within scans
_SCAN, _TABLES = 0xDA, 0xC4
_NOTES = {*range(0xE0, 0xF0), 0xFE} - {0xEE}
_PROGRESSIVE = {0xC2, 0xCA}
_NOT_SEQUENTIAL = {*range(0xC2, 0xD0)} - {_TABLES}
_ZEROS = bytes(64)

_RAW = (
    (0, b"IIRO", "ORF"),
    (0, b"IIRS", "ORF"),
    (0, b"MMOR", "ORF"),
    (0, b"IIU\0", "RW2"),
    (0, b"FUJIFILMCCD-RAW", "RAF"),
    (0, b"FOVb", "X3F"),
    (0, b"\0MRM", "MRW"),
    (4, b"ftypcrx ", "CR3"),
    (6, b"HEAPCCDR", "CRW"),
    (8, b"CR\2\0", "CR2"),
)
"""Where which bytes tell a camera raw file, and its kind; the others are told by their TIFF tags."""


class Proved(NamedTuple):
    """A whole photo."""

    size: tuple[int, int]
    """Width and height of the upright photo, in pixels."""
    grey: NDArray[np.uint8]
    """(32, 32): the whole upright photo, averaged as by cv2.INTER_AREA; perceptual hashes are taken of it."""


def prove(content: bytes, max_pixels: int) -> Proved:
    """Prove that the file of this `content` is a whole photo, which Pillow decodes.

    A JPEG is whole if libjpeg-turbo decodes it without a warning, no scan is missing and it has no hole of
    zeros; a PNG, if its checksums are right; a WebP, if its chunks fill it. Most changes among the pixels of
    a WebP, a BMP or a TIFF, and most single bits in a JPEG, cannot be found (docs/photos.md).

    Raises `ValueError` with the reason, without the path, as `images.decode` does, if the file is not a whole
    photo or is a camera raw file.
    """
    if reason := _raw(content):
        raise ValueError(reason)
    if content.startswith(b"\x89PNG"):
        _check_png(content)
    elif content.startswith(b"RIFF") and content.startswith(b"WEBP", 8):
        _check_webp(content)
    with opened(content, max_pixels) as image:
        if image.format in ("JPEG", "MPO"):
            return _prove_jpeg(content, image)
        image.load()
        shown = to_rgb(image)
    return Proved(shown.size, _averaged(np.asarray(shown.convert("L"))))


def _averaged(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = grey.shape
    if min(height, width) < SIDE:  # cv2 averages only where neither side grows
        grey = cv2.resize(grey, (min(width, SIDE), min(height, SIDE)), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _prove_jpeg(content: bytes, image: Image.Image) -> Proved:
    turn = upright(image)
    size = image.size if turn in _NOT_SIDEWAYS else image.size[::-1]
    try:
        grey: NDArray[np.uint8] | None = _strictly(content)
    except ValueError:
        # What is wrong with the notes in its header spoils no pixel.
        try:
            grey = _strictly(_without_notes(content))
        except ValueError as error:
            if not str(error).startswith(_UNPROVED):
                raise ValueError(f"does not decode: {error}") from None
            grey = None
    if image.info.get("progressive") and not _complete(content):
        raise ValueError("does not decode: ends before its last scan")
    if (hole := _hole(content)) is not None:
        raise ValueError(f"does not decode: a hole of zeros at byte {hole}")
    if grey is None or image.mode == "CMYK":  # of which there are several kinds
        shown = to_rgb(decode(content, at_least=_JPEG_SIDE))
        return Proved(size, _averaged(np.asarray(shown.convert("L"))))
    averaged = _averaged(grey)
    if turn is not None:
        averaged = np.asarray(Image.fromarray(averaged).transpose(turn))
    return Proved(size, averaged)


def _strictly(jpeg: bytes) -> NDArray[np.uint8]:
    """`jpeg` in grey, (H, W), all of whose codes are read though it is decoded smaller."""
    grey: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        jpeg, "GRAY", min_height=_JPEG_SIDE, min_width=_JPEG_SIDE, min_factor=2
    )
    return grey[:, :, 0]


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """The kind, the start and the end of each segment of `jpeg`; that of a scan ends before its codes."""
    place = 2
    while (marker := _MARKER.search(jpeg, place)) and marker[1] != b"\xd9":
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
        if place > len(jpeg):
            return
        yield marker[1][0], marker.start(), place


def _without_notes(jpeg: bytes) -> bytes:
    """`jpeg` without the comments and APP segments before its first scan, but that of the colour space."""
    kept = [jpeg[:2]]
    for kind, start, end in _segments(jpeg):
        if kind == _SCAN:
            return b"".join([*kept, jpeg[start:]])
        if kind not in _NOTES:
            kept.append(jpeg[start:end])
    return jpeg


def _complete(jpeg: bytes) -> bool:
    """Whether the scans of the progressive `jpeg` hold all bits of all coefficients."""
    unknown: dict[int, list[int]] = {}
    for kind, start, end in _segments(jpeg):
        if kind in _PROGRESSIVE:
            unknown = {component: [16] * 64 for component in jpeg[start + 10 : end : 3]}
        elif kind == _SCAN:
            first, last, bits = jpeg[end - 3 : end]
            for component in jpeg[start + 5 : end - 3 : 2]:
                unknown[component][first : last + 1] = [bits & 15] * (last + 1 - first)
    return not any(map(any, unknown.values()))


def _hole(jpeg: bytes) -> int | None:
    """Where zeros stand in `jpeg` that code no picture, or None.

    Zeros are codes, too, and a hole that has as many blocks as were lost, as one in ten of 512 bytes has, is
    nothing to libjpeg. A long run of them is natural where zero ends a block, as in flat pictures, and in
    progressive scans, of which many are single bits. Else it makes blocks of nothing but high frequencies.
    """
    if _ZEROS not in jpeg:
        return None
    codes: dict[int, int] = {}
    for kind, start, end in _segments(jpeg):
        if kind == _TABLES:
            place = start + 4
            while place < end:
                codes[jpeg[place]] = jpeg[place + 17]
                place += 17 + sum(jpeg[place + 1 : place + 17])
        elif kind in _NOT_SEQUENTIAL:
            return None
        elif kind == _SCAN:
            marker = _MARKER.search(jpeg, end)
            hole = jpeg.find(_ZEROS, end, marker.start() if marker else len(jpeg))
            tables = jpeg[start + 6 : end - 3 : 2]
            if hole >= 0 and any(codes.get(0x10 | table & 15) for table in tables):
                return hole
    return None


def _check_png(content: bytes) -> None:
    """Raise `ValueError` where a checksum is wrong: Pillow passes over those of and after the pixels."""
    place, name = 8, ""
    while name != "IEND":
        start = place + 8
        end = start + int.from_bytes(content[place : place + 4])
        name = _spelled(content[place + 4 : start])
        if end + 4 > len(content):
            raise ValueError(f"does not decode: ends before its chunk {name or 'IEND'} does")
        if zlib.crc32(memoryview(content)[place + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise ValueError(f"does not decode: its chunk {name} at byte {place} has a wrong checksum")
        place = end + 4


def _check_webp(content: bytes) -> None:
    """Raise `ValueError` where the chunks do not fill it."""
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise ValueError(f"does not decode: ends after {len(content)} of {end} bytes")
    place, name = 12, "WEBP"
    while place < end:
        name = _spelled(content[place : place + 4])
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    if place > end:
        raise ValueError(f"does not decode: its chunk {name} reaches {place - end} bytes beyond its end")


def _spelled(name: bytes) -> str:
    return repr(name)[2:-1]


def _raw(content: bytes) -> str | None:
    for place, magic, kind in _RAW:
        if content.startswith(magic, place):
            return f"a camera raw file ({kind}); export it as JPEG"
    return _tiffs.preview(io.BytesIO(content)) if content.startswith((b"II", b"MM")) else None
