"""TIFFs, whose samples come in more kinds than Pillow reads right, and what is white in those of 16 bits."""

import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    YCBCRSUBSAMPLING,
    ImageFileDirectory_v2,
)

NEW_SUBFILE_TYPE, MAKE, MAX_SAMPLE_VALUE, SUB_IFDS, S_MAX_SAMPLE_VALUE, DNG_VERSION = (
    254, 271, 281, 330, 341, 50706
)  # fmt: skip
UNSIGNED, SIGNED, FLOATING = 1, 2, 3
BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0")
BIG_BIG_ENDIAN = b"MM\0+"
"""How a big-endian BigTIFF begins, which Pillow takes for an ordinary TIFF."""
WHITE_IS_ZERO, BLACK_IS_ZERO, YCBCR = 0, 1, 6
SENSOR = (32803, 34892)  # a colour filter array, and what was made of one
WHITES = tuple((1 << bits) - 1 for bits in range(8, 17))


def directory(file: BinaryIO, offset: int | None = None) -> ImageFileDirectory_v2 | None:
    """The tags of the page at `offset` of the TIFF `file`, by default the first; None if there is none."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(BIG_BIG_ENDIAN):
        return None
    try:
        tags = ImageFileDirectory_v2(head if head[2:3] == b"+" else head[:8])
        file.seek(tags.next if offset is None else offset)
        tags.load(file)
    except (OSError, SyntaxError, EOFError, LookupError, TypeError, ValueError, OverflowError, struct.error):
        return None
    return tags if IMAGEWIDTH in tags else None


def preview(file: BinaryIO) -> str | None:
    """Why the first page of the TIFF `file` is not its photo, as in most camera raw files; None if it is.

    That is told by the tags of DNG, by pages of samples as the sensor gave them, and by a page larger than
    the first: one of its subpages, or the next page if the first is marked as of reduced resolution.
    """
    first = directory(file)
    if first is None:
        return None
    parts = [part for offset in first.get(SUB_IFDS, ())[:16] if (part := directory(file, offset))]
    shown = f"its first page is a preview of {first[IMAGEWIDTH]}x{first.get(IMAGELENGTH)}"
    sensor = [page.get(PHOTOMETRIC_INTERPRETATION) in SENSOR for page in (first, *parts)]
    if DNG_VERSION in first or any(sensor):
        kind = "DNG" if DNG_VERSION in first else str(first.get(MAKE, "of no make")).strip()
        named = f"a camera raw file ({''.join(filter(str.isprintable, kind))})"
        return f"{named}; export it as JPEG" if sensor[0] else f"{named}, {shown}; export it as JPEG"
    if first.next and first.get(NEW_SUBFILE_TYPE) in (1, 3, 5, 7) and (part := directory(file, first.next)):
        parts.append(part)
    if any(_pixels(part) > _pixels(first) for part in parts):
        return f"{shown}; save the page of the whole photo as a file of its own"
    return None


def _pixels(tags: ImageFileDirectory_v2) -> int:
    width, height = tags[IMAGEWIDTH], tags.get(IMAGELENGTH)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


def misread(tags: ImageFileDirectory_v2) -> bool:
    """Whether Pillow decodes a TIFF of these `tags` to other pixels than are stored.

    Or to samples that no reader agrees on what is white in: signed, or of more than 16 bits.
    """
    bits: int = max(tags.get(BITSPERSAMPLE, (1,)))
    kind: int = max(tags.get(SAMPLEFORMAT, (UNSIGNED,)))
    photometric: int = tags.get(PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO)
    raw: bool = tags.get(COMPRESSION, 1) == 1
    if kind == FLOATING:
        return photometric == WHITE_IS_ZERO or (tags.prefix == b"MM" and not raw)
    if kind != UNSIGNED or bits > 16:
        return True
    if tags.get(PLANAR_CONFIGURATION, 1) == 2:
        with_alpha: bool = tags.get(SAMPLESPERPIXEL, 1) > 1
        return (photometric <= BLACK_IS_ZERO and with_alpha) or (raw and bits > 8)
    subsampled: bool = tags.get(YCBCRSUBSAMPLING) != (1, 1)
    return photometric == YCBCR and raw and subsampled


def samples(tags: ImageFileDirectory_v2) -> str:
    """What the samples of a TIFF of these `tags` are, for messages."""
    kinds = {UNSIGNED: "unsigned", SIGNED: "signed", FLOATING: "floating-point"}
    kind = kinds.get(max(tags.get(SAMPLEFORMAT, (UNSIGNED,)), default=0), "unknown")
    bits = max(tags.get(BITSPERSAMPLE, (1,)), default=1)
    return (
        f"{tags.get(SAMPLESPERPIXEL, 1)} x {bits}-bit {kind} samples "
        f"(photometric {tags.get(PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO)}, "
        f"compression {tags.get(COMPRESSION, 1)}, planar configuration {tags.get(PLANAR_CONFIGURATION, 1)}, "
        f"{'big' if tags.prefix == b'MM' else 'little'}-endian)"
    )


def white(tags: Mapping[int, Any], largest: int) -> int:
    """The sample that is white (black, where white is zero) in a grey of 12 or 16 bits.

    Cameras store 10, 12 or 14 bits in 16. MaxSampleValue says so if it is one less than a power of two; any
    other value is the `largest` sample, which must not change how a photo is shown (TIFF 6.0,
    MaxSampleValue). If it does not say so, and no sample reaches a sixteenth of the white of 16 bits, the
    photo would be nearly black. It is then taken to have as few bits as hold the `largest` sample, and at
    least 8.
    """
    for told in (*tags.get(MAX_SAMPLE_VALUE, ()), *tags.get(S_MAX_SAMPLE_VALUE, ())):
        if told >= largest and told in WHITES:
            return int(told)
    if tags.get(BITSPERSAMPLE) == (12,):
        return 2**12 - 1
    if largest < 2**12 and tags.get(PHOTOMETRIC_INTERPRETATION, BLACK_IS_ZERO) == BLACK_IS_ZERO:
        return next(top for top in WHITES if top >= largest)
    return 2**16 - 1
