import itertools
import re
import struct
import zlib
from typing import NamedTuple

import numpy as np
import pytest

from landmarks.errors import InputError
from landmarks.photos import images
from landmarks.photos._proving import prove

# Pillow warns of what it skips in files that are broken, or no TIFFs.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CODES = {"B": 1, "s": 2, "H": 3, "I": 4, "f": 11, "d": 12}
WIDTH, HEIGHT = 11, 5
GREY = np.linspace(0.02, 0.98, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
RGB = np.stack([GREY, 1 - GREY, GREY / 2], -1)
LIMIT = 10**6


class Page(NamedTuple):
    tags: dict
    strips: list
    parts: tuple


def page(samples=None, *, photometric=1, order="<", packed=False, planar=False, parts=(), **tags):
    """A page of `samples`, (H, W) or (H, W, N), or else of grey of a `shape`; `tag<number>` adds a tag."""
    samples = np.full(tags.pop("shape", (HEIGHT, WIDTH)), 128, np.uint8) if samples is None else samples
    height, width, count = (*samples.shape, 1)[:3]
    planes = np.moveaxis(samples, -1, 0) if planar else [samples]
    strips = [plane.astype(samples.dtype.newbyteorder(order)).tobytes() for plane in planes]
    found = {
        254: ("I", [tags.pop("subfile", 0)]),
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * samples.itemsize] * count),
        259: ("H", [8 if packed else 1]),
        262: ("H", [photometric]),
        277: ("H", [count]),
        278: ("I", [height]),
        284: ("H", [2 if planar else 1]),
        339: ("H", [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * count),
    }
    found |= {int(tag.removeprefix("tag")): value for tag, value in tags.items()}
    return Page(found, [zlib.compress(strip) for strip in strips] if packed else strips, parts)


def tiff(*pages, order="<", big=False):
    """The TIFF of `pages`, a BigTIFF where `big`."""
    word, count, offset = ("Q", "Q", 8) if big else ("I", "H", 4)
    version = (43, 8, 0, 0) if big else (42, 0)
    out = bytearray(b"II" if order == "<" else b"MM")
    out += struct.pack(order + ("HHHQ" if big else "HI"), *version)

    def write(page, following=0):
        places = []
        for strip in page.strips:
            places.append(len(out))
            out.extend(strip)
        tags = page.tags | {273: ("I", places), 279: ("I", [len(strip) for strip in page.strips])}
        if page.parts:
            tags[330] = "I", [write(part) for part in page.parts]
        entries = b""
        for tag, (kind, values) in sorted(tags.items()):
            raw = values if kind == "s" else struct.pack(f"{order}{len(values)}{kind}", *values)
            entries += struct.pack(f"{order}HH{word}", tag, CODES[kind], len(values))
            if len(raw) > offset:
                entries += struct.pack(order + word, len(out))
                out.extend(raw)
            else:
                entries += raw.ljust(offset, b"\0")
        at = len(out)
        out.extend(struct.pack(order + count, len(tags)) + entries + struct.pack(order + word, following))
        return at

    following = 0
    for each in reversed(pages):
        following = write(each, following)
    struct.pack_into(order + word, out, 8 if big else 4, following)
    return bytes(out)


def scaled(values, dtype, white=None):
    dtype = np.dtype(dtype)
    white = white or (1 if dtype.kind == "f" else np.iinfo(dtype).max)
    return (values * white).round(0 if dtype.kind != "f" else 9).astype(dtype)


def bits_of_12(values):
    """`values` packed in rows of whole bytes."""
    bits = np.unpackbits(scaled(values, ">u2", 4095).view(np.uint8).reshape(HEIGHT, WIDTH, 2), axis=-1)
    return np.packbits(bits[:, :, 4:].reshape(HEIGHT, -1), axis=-1)


KINDS = {
    "8 bits": (scaled(GREY, "u1"), {}, GREY),
    "16 bits": (scaled(GREY, "u2"), {}, GREY),
    "a dark photo of 16 bits": (scaled(GREY / 8, "u2"), {}, GREY / 8),
    "12 bits in 16": (scaled(GREY, "u2", 4095), {}, GREY),
    "10 bits in 16": (scaled(GREY, "u2", 1023), {}, GREY),
    "8 bits in 16": (scaled(GREY, "u2", 255), {}, GREY),
    "14 bits in 16, told": (scaled(GREY, "u2", 16383), {"tag281": ("H", [16383])}, GREY),
    "12 bits in 16, told": (scaled(GREY / 20, "u2", 4095), {"tag281": ("H", [4095])}, GREY / 20),
    "12 bits in 16, told as signed": (scaled(GREY / 20, "u2", 4095), {"tag341": ("d", [4095])}, GREY / 20),
    "16 bits, told": (scaled(GREY / 20, "u2"), {"tag281": ("H", [65535])}, GREY / 20),
    "16 bits, the largest told": (scaled(GREY / 3, "u2"), {"tag281": ("H", [21408])}, GREY / 3),
    "16 bits, a lower white told": (scaled(GREY, "u2"), {"tag281": ("H", [4095])}, GREY),
    "white is zero, 8 bits": (scaled(1 - GREY, "u1"), {"photometric": 0}, GREY),
    "white is zero, 16 bits": (scaled(1 - GREY, "u2"), {"photometric": 0}, GREY),
    "a light photo, white is zero": (scaled((1 - GREY) / 20, "u2"), {"photometric": 0}, 1 - (1 - GREY) / 20),
    "white is zero, told": (scaled(1 - GREY, "u2", 4095), {"photometric": 0, "tag281": ("H", [4095])}, GREY),
    "signed, 8 bits": (scaled(GREY, "i1"), {}, None),
    "signed, 16 bits": (scaled(GREY, "i2"), {}, None),
    "signed, 32 bits": (scaled(GREY, "i4"), {}, None),
    "32 bits": (scaled(GREY, "u4"), {}, None),
    "few of 32 bits": (scaled(GREY, "u4", 255), {}, None),
    "floating point": (scaled(GREY, "f4"), {}, GREY / GREY.max()),
    "floating point, 16 bits": (scaled(GREY, "f2"), {}, None),
    "floating point, 64 bits": (scaled(GREY, "f8"), {}, None),
    "floating point, white is zero": (scaled(1 - GREY, "f4"), {"photometric": 0}, None),
    "RGB": (scaled(RGB, "u1"), {"photometric": 2}, RGB),
    "RGB, 16 bits": (scaled(RGB, "u2"), {"photometric": 2}, RGB),
    "RGB in planes": (scaled(RGB, "u1"), {"photometric": 2, "planar": True}, RGB),
    "RGB in planes, 16 bits": (scaled(RGB, "u2"), {"photometric": 2, "planar": True}, RGB),
    "RGB, floating point": (scaled(RGB, "f4"), {"photometric": 2}, None),
    "RGB, signed": (scaled(RGB, "i2"), {"photometric": 2}, None),
    "CMYK": (scaled(np.dstack([1 - RGB, 0 * GREY]), "u1"), {"photometric": 5}, RGB),
    "CMYK in planes, 16 bits": (
        scaled(np.dstack([1 - RGB, 0 * GREY]), "u2"),
        {"photometric": 5, "planar": True},
        RGB,
    ),
    "grey and alpha": (scaled(np.dstack([GREY, GREY * 0 + 1]), "u1"), {"tag338": ("H", [2])}, GREY),
    "grey and alpha, 16 bits": (scaled(np.dstack([GREY, GREY * 0 + 1]), "u2"), {"tag338": ("H", [2])}, None),
    "grey and alpha in planes": (
        scaled(np.dstack([GREY, GREY * 0 + 1]), "u1"),
        {"tag338": ("H", [2]), "planar": True},
        None,
    ),
}
REFUSED_ANYHOW = {
    "white is zero, 16 bits": [(">", False), (">", True)],
    "a light photo, white is zero": [(">", False), (">", True)],
    "white is zero, told": [(">", False), (">", True)],
    "floating point": [(">", True)],
    "RGB in planes, 16 bits": [("<", False), (">", False)],
    "CMYK in planes, 16 bits": [("<", False), (">", False)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_every_kind_are_shown_right_or_refused_for_what_they_are(kind):
    samples, tags, expected = KINDS[kind]
    for order, packed, big in itertools.product("<>", (False, True), (False, True)):
        content = tiff(page(samples, order=order, packed=packed, **tags), order=order, big=big)
        if big and order == ">":
            with pytest.raises(InputError, match="a BigTIFF of big-endian byte order is not read"):
                images.read(content)
        elif expected is None or (order, packed) in REFUSED_ANYHOW.get(kind, []):
            with pytest.raises(InputError) as caught:
                images.read(content)
            count = 1 if samples.ndim == 2 else samples.shape[2]
            name = {"u": "unsigned", "i": "signed", "f": "floating-point"}[samples.dtype.kind]
            assert f"a TIFF of {count} x {8 * samples.itemsize}-bit {name} samples" in str(caught.value)
            assert f"{'big' if order == '>' else 'little'}-endian) is not read" in str(caught.value)
            with pytest.raises(ValueError, match="is not read"):
                prove(content, LIMIT)
        else:
            shown = np.asarray(images.read(content), float)
            wanted = 255 * (expected if expected.ndim == 3 else expected[..., None])
            assert np.abs(shown - wanted).max() <= 1, (order, packed, big)
            assert prove(content, LIMIT).size == (WIDTH, HEIGHT)


def test_12_bits_packed_without_gaps_are_shown_right():
    content = page(bits_of_12(GREY), tag256=("I", [WIDTH]), tag258=("H", [12]))
    shown = np.asarray(images.read(tiff(content)), float)
    assert np.abs(shown - 255 * GREY[..., None]).max() <= 1


@pytest.mark.parametrize("subsampling", [{}, {"tag530": ("H", [2, 2])}, {"tag530": ("H", [2, 1])}])
def test_uncompressed_ycbcr_is_refused_where_its_colours_are_subsampled(subsampling):
    samples = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    whole = tiff(page(samples, photometric=6, tag530=("H", [1, 1])))
    assert np.asarray(images.read(whole)).tolist() == [[[128] * 3] * WIDTH] * HEIGHT
    with pytest.raises(InputError, match=r"3 x 8-bit unsigned samples \(photometric 6"):
        images.read(tiff(page(samples, photometric=6, **subsampling)))


@pytest.mark.parametrize("compression", [4096, 32767, 34892, 65535])
def test_a_compression_that_is_not_known_is_named(compression):
    with pytest.raises(InputError, match=f"compression {compression}"):
        images.read(tiff(page(tag259=("H", [compression]))))


CFA, LINEAR = 32803, 34892
LARGE = (HEIGHT * 4, WIDTH * 4)
PREVIEW = f"its first page is a preview of {WIDTH}x{HEIGHT}"
NIKON = {"tag271": ("s", b"NIKON CORPORATION\0")}
DNG = {"tag50706": ("B", [1, 4, 0, 0])}
SENSOR = np.zeros(LARGE, np.uint16)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("pages", "reason"),
    [
        pytest.param(
            [page(subfile=1, parts=(page(SENSOR, photometric=CFA),), **NIKON)],
            f"a camera raw file (NIKON CORPORATION), {PREVIEW}; export it as JPEG",
            id="NEF",
        ),
        pytest.param(
            [
                page(
                    subfile=1,
                    parts=(page(subfile=1, shape=LARGE), page(SENSOR, photometric=CFA)),
                    tag271=("s", b"SONY \0"),
                )
            ],
            f"a camera raw file (SONY), {PREVIEW}; export it as JPEG",
            id="ARW",
        ),
        pytest.param(
            [page(subfile=1, parts=(page(SENSOR, photometric=LINEAR),), **DNG, **NIKON)],
            f"a camera raw file (DNG), {PREVIEW}; export it as JPEG",
            id="DNG",
        ),
        pytest.param(
            [page(shape=LARGE, **DNG)],
            "a camera raw file (DNG), its first page is a preview of 44x20; export it as JPEG",
            id="DNG whose preview is large",
        ),
        pytest.param(
            [page(SENSOR, photometric=CFA, tag259=("H", [65535]), tag271=("s", b"PENTAX\r\n\0"))],
            "a camera raw file (PENTAX); export it as JPEG",
            id="PEF",
        ),
        pytest.param(
            [page(SENSOR, photometric=LINEAR)],
            "a camera raw file (of no make); export it as JPEG",
            id="linear",
        ),
        pytest.param(
            [page(parts=(page(shape=LARGE),))],
            f"{PREVIEW}; save the page of the whole photo as a file of its own",
            id="preview with a larger part",
        ),
        pytest.param(
            [page(subfile=1), page(shape=LARGE)],
            f"{PREVIEW}; save the page of the whole photo as a file of its own",
            id="preview before the photo",
        ),
        pytest.param(
            [page(subfile=3), page(shape=LARGE)],
            f"{PREVIEW}; save the page of the whole photo as a file of its own",
            id="preview of a page before the photo",
        ),
    ],
)
def test_a_camera_raw_file_is_rejected_for_what_it_is(pages, reason, order):
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        prove(tiff(*pages, order=order), LIMIT)


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"IIRO\x08\0\0\0", "ORF"),
        (b"IIRS\x08\0\0\0", "ORF"),
        (b"MMOR\0\0\0\x08", "ORF"),
        (b"IIU\0\x18\0\0\0", "RW2"),
        (b"FUJIFILMCCD-RAW 0201FF159502X100", "RAF"),
        (b"II\x1a\0\0\0HEAPCCDR\x02\0", "CRW"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "CR3"),
        (b"FOVb\0\0\x02\0", "X3F"),
        (b"\0MRM\0\x01\x02\x03", "MRW"),
        (b"II*\0\x10\0\0\0CR\x02\0", "CR2"),
    ],
)
def test_a_camera_raw_file_is_told_by_how_it_begins(tmp_path, beginning, kind):
    path = tmp_path / "photo"
    path.write_bytes(beginning + bytes(1000))
    with pytest.raises(ValueError, match=rf"^a camera raw file \({kind}\); export it as JPEG$"):
        prove(images.stored(path), LIMIT)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "pages",
    [
        pytest.param([page(), page(shape=LARGE)], id="pages"),
        pytest.param([page(), page(subfile=1, shape=(2, 3))], id="thumbnail after the photo"),
        pytest.param(
            [page(parts=(page(subfile=1, shape=(2, 5)), page(subfile=1, shape=(1, 2))))], id="pyramid"
        ),
        pytest.param([page(subfile=1)], id="alone, marked as reduced"),
        pytest.param([page(subfile=1), page(subfile=1, shape=(2, 3))], id="levels alone"),
        pytest.param([page(subfile=2), page(subfile=2, shape=LARGE)], id="a scanned document"),
        pytest.param([page(**NIKON)], id="saved by the program of a camera"),
        pytest.param([page(tag330=("I", [10**6]))], id="part beyond the end"),
        pytest.param([page(tag254=("s", b"no number at all\0"))], id="kind as text"),
    ],
)
def test_a_tiff_whose_first_page_is_the_photo_is_taken(pages, order):
    assert prove(tiff(*pages, order=order), LIMIT).size == (WIDTH, HEIGHT)
