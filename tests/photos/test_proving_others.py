"""Damage to photos of other kinds than JPEG."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from landmarks.photos import images
from landmarks.photos._proving import prove

from .test_proving import LIMIT, assert_whole, encoded, passes, photo


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks(png):
    found, place = [], 8
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4])
        found.append(png[place:end])
        place = end
    return found


def pngs():
    rng = np.random.default_rng(8)
    picture = photo(rng, 24, 16)
    text = chunk(b"tEXt", b"Comment\0" + bytes(70))
    plain = encoded("PNG", picture)
    yield plain
    yield (
        plain[:33]
        + text
        + plain[33:-12]
        + text
        + chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0")
        + plain[-12:]
    )
    yield encoded("PNG", picture.quantize(8), transparency=0)
    yield encoded("PNG", Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257))
    yield encoded("PNG", picture, save_all=True, append_images=[picture.rotate(180)])
    yield encoded("PNG", picture.convert("RGBA"))


def test_a_changed_byte_anywhere_in_a_png_is_noticed_and_none_after_its_end():
    rng = np.random.default_rng(9)
    for png in pngs():
        assert_whole(png, within=1)
        assert_whole(png + rng.bytes(100), within=1)
        for place in range(len(png)):
            changed = png[:place] + bytes([png[place] ^ int(rng.integers(1, 256))]) + png[place + 1 :]
            with pytest.raises(ValueError, match=r"^(does not decode|not an image)"):
                prove(changed, LIMIT)


def test_a_png_whose_chunks_are_dropped_swapped_or_missing_is_rejected():
    noisy = Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8))
    png = encoded("PNG", noisy)
    header, end = chunks(png)[0], chunks(png)[-1]
    pixels = b"".join(each[8:-4] for each in chunks(png)[1:-1])
    parts = [chunk(b"IDAT", pixels[place : place + 20000]) for place in range(0, len(pixels), 20000)]
    assert len(parts) > 4

    def joined(*found):
        return png[:8] + b"".join(found)

    assert_whole(joined(header, *parts, end), within=1)
    for bad in (
        joined(header, *parts[:2], *parts[3:], end),
        joined(header, *parts[:-1], end),
        joined(header, parts[1], parts[0], *parts[2:], end),
        joined(header, *parts[:2], parts[3], parts[2], *parts[4:], end),
        joined(header, *parts[:3], *parts[2:], end),
        joined(header, *parts),
        joined(*parts, end),
        joined(header, end),
        joined(header, *parts, end[:-1]),
    ):
        with pytest.raises(ValueError, match=r"^(does not decode|not an image)"):
            prove(bad, LIMIT)


def test_the_chunk_that_was_damaged_is_named():
    png = bytearray(encoded("PNG", photo(np.random.default_rng(1), 64, 48)))
    png[100] ^= 1
    with pytest.raises(
        ValueError, match=r"^does not decode: its chunk IDAT at byte 33 has a wrong checksum$"
    ):
        prove(bytes(png), LIMIT)
    with pytest.raises(ValueError, match=r"^does not decode: ends before its chunk IDAT does$"):
        prove(bytes(png[:2000]), LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_the_reason_is_one_line_whatever_stands_in_a_header(kind):
    content = encoded(kind, photo(np.random.default_rng(3), 40, 30))
    reasons = set()
    for place in range(80):
        for four in (bytes(4), b"\n\r\n\x1b", b"\xff\xff\xff\xff"):
            try:
                prove(content[:place] + four + content[place + 4 :], LIMIT)
            except ValueError as error:
                reasons.add(str(error))
    assert reasons
    assert all(reason.isprintable() for reason in reasons)


def webp(*parts, size=None):
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def part(kind, content, length=None, pad=b"\0"):
    length = len(content) if length is None else length
    return kind + struct.pack("<I", length) + content + (pad if len(content) % 2 else b"")


def test_a_webp_whose_chunks_do_not_fill_it_is_rejected():
    tags = Image.Exif()
    tags[0x10E] = "x" * 71
    picture = photo(np.random.default_rng(2), 90, 70)
    for content in (
        encoded("WEBP", picture),
        encoded("WEBP", picture, lossless=True),
        encoded("WEBP", picture, exif=tags),
        encoded("WEBP", picture, save_all=True, append_images=[picture.rotate(90)]),
    ):
        body = content[12:]
        assert_whole(content)
        assert_whole(content + b"what follows the end")
        assert_whole(webp(body, part(b"JUNK", b"odd")))
        assert_whole(webp(body, part(b"JUNK", bytes(6000))))
        first = int.from_bytes(body[4:8], "little")
        bad = [webp(body, size=size) for size in range(5)]
        bad += [webp(body, size=len(body) + 4 + more) for more in (-100, -2, -1, 1, 2, 100, 10**9)]
        bad += [content[: len(content) - less] for less in (1, 2, 9, len(content) // 2)]
        bad += [webp(body[:4] + struct.pack("<I", first + more) + body[8:]) for more in (-2, 2, 50, 10**6)]
        bad += [
            webp(body, b"JUNK\x03\0\0\0odd"),
            webp(body, b"JUNK"),
            webp(body, part(b"JUNK", b"even", 300)),
        ]
        for damaged in bad:
            with pytest.raises(ValueError, match=r"^does not decode: "):
                prove(damaged, LIMIT)


def test_a_damaged_webp_says_which_chunk_or_how_much_there_is():
    content = encoded("WEBP", photo(np.random.default_rng(2), 90, 70))
    reason = "does not decode: its chunk JUNK reaches 6 bytes beyond its end"
    with pytest.raises(ValueError, match=f"^{reason}$"):
        prove(webp(content[12:], part(b"JUNK", b"odd", 10)), LIMIT)
    with pytest.raises(ValueError, match=f"^does not decode: ends after 500 of {len(content)} bytes$"):
        prove(content[:500], LIMIT)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_bmp_and_a_tiff_that_were_cut_are_rejected(kind, options):
    content = encoded(kind, photo(np.random.default_rng(2), 64, 48), **options)
    assert_whole(content, within=1)
    for share in (0.1, 0.5, 0.9, 0.99):
        assert not passes(content[: round(share * len(content))], content)


def test_of_a_film_only_the_beginning_is_read(tmp_path):
    for beginning in (b"\0\0\0\x18ftypmp42", b"RIFF\0\0\0\0AVI LIST", b"\x1aE\xdf\xa3"):
        path = tmp_path / "film"
        path.write_bytes(beginning)
        with path.open("r+b") as file:
            file.truncate(1 << 40)  # a hole, which takes no place
        with pytest.raises(
            ValueError, match=r"^not an image in one of the formats JPEG, PNG, WEBP, BMP, TIFF$"
        ):
            prove(images.stored(path), LIMIT)
