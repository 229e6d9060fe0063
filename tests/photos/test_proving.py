import base64
import io
import itertools
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageDraw

from landmarks.photos import images, scanning
from landmarks.photos._proving import SIDE, prove

LIMIT = 10**7


def photo(rng, width, height):
    """Coarse colours, finer ones over them, and noise."""
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize((width, height)), float
        )
        for cells in (3, 9, 30)
    ]
    mixed = layers[0] * 0.6 + layers[1] * 0.3 + layers[2] * 0.1 + rng.integers(-8, 9, (height, width, 3))
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def encoded(kind, image, **save):
    file = io.BytesIO()
    image.save(file, kind, **save)
    return file.getvalue()


def averages(content):
    """The areas of `content` in grey, each the mean of its pixels, counted by how much of them is inside."""
    grey = np.asarray(images.read(content).convert("L"), float)

    def shares(count):
        edges, cells = np.linspace(0, count, SIDE + 1), np.arange(count)
        inside = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        return inside.clip(0) * SIDE / count

    return shares(grey.shape[0]) @ grey @ shares(grey.shape[1]).T


def assert_whole(content, within=2):
    """`content` is proved, is read, and its grey is that of its pixels to `within` levels in the mean."""
    proved = prove(content, LIMIT)
    assert proved.size == images.read(content).size
    assert (proved.grey.shape, proved.grey.dtype) == ((SIDE, SIDE), np.uint8)
    assert np.abs(proved.grey - averages(content)).mean() <= within
    return proved


def passes(content, original):
    """Whether `content` is proved whole though its pixels are not those of `original`."""
    try:
        prove(content, LIMIT)
    except ValueError as error:
        assert str(error).startswith("does not decode: ")  # noqa: PT017
        return False
    found, expected = np.asarray(images.read(content)), np.asarray(images.read(original))
    return found.shape != expected.shape or (found != expected).any()


SIZES = [(64, 48), (161, 107), (320, 240), (90, 300), (601, 403)]


def jpegs(progressive):
    """Photos of several sizes, qualities, subsamplings, with and without restarts, in colour and grey."""
    rng = np.random.default_rng(7)
    for number, (size, quality) in enumerate(itertools.product(SIZES, [50, 75, 92])):
        options = {"quality": quality, "progressive": progressive, "optimize": number % 2 == 1}
        if number % 4 == 3:
            options["restart_marker_rows"] = 1
        if number % 5 == 4:
            yield encoded("JPEG", photo(rng, *size).convert("L"), **options)
        else:
            yield encoded("JPEG", photo(rng, *size), subsampling=number % 3, **options)
    yield simplejpeg.encode_jpeg(np.asarray(photo(rng, 120, 90)), colorsubsampling="411")
    yield simplejpeg.encode_jpeg(np.asarray(photo(rng, 120, 90)), colorsubsampling="440")


FAMILY = {"baseline": list(jpegs(False)), "progressive": list(jpegs(True))}


@pytest.mark.parametrize("kind", FAMILY)
def test_no_jpeg_that_is_whole_is_rejected_and_its_grey_is_of_all_its_pixels(kind):
    for content in FAMILY[kind]:
        assert_whole(content)


OTHER = encoded("JPEG", photo(np.random.default_rng(0), 320, 240), quality=75)[:-2]


def segment(kind, content):
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(content) + 2) + content


def segments(jpeg):
    """Kind, start and end of each segment up to and with the first scan's header."""
    found, place = [(0xD8, 0, 2)], 2
    while found[-1][0] != 0xDA:
        end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4])
        found.append((jpeg[place + 1], place, end))
        place = end
    return found


def codes(jpeg):
    """Where the codes of the first scan begin, and where those of the last one end."""
    return segments(jpeg)[-1][2], len(jpeg) - 2


def sector(jpeg, rng):
    start, end = codes(jpeg)
    length = min(512, (end - start) // 4)
    place = int(rng.integers(start, end - length))
    return place, place + length


def zero_tail(jpeg, rng):
    place, _ = sector(jpeg, rng)
    return jpeg[:place] + bytes(len(jpeg) - place)


def hole(jpeg, rng):
    start, end = sector(jpeg, rng)
    return jpeg[:start] + bytes(end - start) + jpeg[end:]


def noise(jpeg, rng):
    start, end = sector(jpeg, rng)
    return jpeg[:start] + rng.bytes(end - start) + jpeg[end:]


def closed(jpeg, rng):
    return jpeg[: sector(jpeg, rng)[0]] + b"\xff\xd9"


def cut(jpeg, rng):
    return jpeg[: sector(jpeg, rng)[0]]


def unclosed(jpeg, rng):
    return jpeg[:-2]


def lost(jpeg, rng):
    start, end = sector(jpeg, rng)
    return jpeg[:start] + jpeg[end:]


def doubled(jpeg, rng):
    start, end = sector(jpeg, rng)
    return jpeg[:end] + jpeg[start:]


def swapped(jpeg, rng):
    start, end = sector(jpeg, rng)
    middle = (start + end) // 2
    return jpeg[:start] + jpeg[middle:end] + jpeg[start:middle] + jpeg[end:]


def ones(jpeg, rng):
    start, end = sector(jpeg, rng)
    return jpeg[:start] + b"\xff" * (end - start) + jpeg[end:]


def of_another(jpeg, rng):
    start, end = sector(jpeg, rng)
    return jpeg[:start] + OTHER[start - end :] + jpeg[end:]


def without_quantization(jpeg, rng):
    start, end = next(place[1:] for place in segments(jpeg) if place[0] == 0xDB)
    return jpeg[:start] + jpeg[end:]


# The share that may pass: what decodes to as many blocks as were lost is nothing to a decoder.
DAMAGES = {
    zero_tail: 0,
    hole: 0,
    noise: 0.03,
    closed: 0,
    cut: 0,
    unclosed: 0,
    lost: 0.03,
    doubled: 0.03,
    swapped: 0.3,
    ones: 0,
    of_another: 0.3,
    without_quantization: 0,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", FAMILY)
def test_a_damaged_jpeg_is_rejected(kind, damage):
    rng = np.random.default_rng(1)
    tries = [(damage(jpeg, rng), jpeg) for jpeg in FAMILY[kind] for _ in range(3)]
    allowed = 0.1 if (kind, damage) == ("progressive", hole) else DAMAGES[damage]
    assert sum(passes(content, jpeg) for content, jpeg in tries) <= allowed * len(tries)


def test_a_progressive_jpeg_that_is_closed_after_any_scan_but_the_last_is_rejected():
    jpeg = FAMILY["progressive"][-3]
    places = [place for place in range(len(jpeg)) if jpeg[place : place + 2] == b"\xff\xda"]
    assert len(places) >= 5
    for place in places[1:]:
        # A scan follows its tables, which may stay.
        with pytest.raises(ValueError, match=r"^does not decode: ends before its last scan$"):
            prove(jpeg[:place] + b"\xff\xd9", LIMIT)


def test_a_jpeg_that_is_cut_at_a_restart_and_closed_is_rejected():
    jpeg = encoded("JPEG", photo(np.random.default_rng(2), 64, 64), restart_marker_rows=1)
    place = jpeg.index(b"\xff\xd1")
    with pytest.raises(ValueError, match=r"^does not decode: Corrupt JPEG data: "):
        prove(jpeg[:place] + b"\xff\xd9", LIMIT)


def test_the_reason_is_what_libjpeg_says():
    jpeg = encoded("JPEG", photo(np.random.default_rng(0), 64, 48))
    with pytest.raises(
        ValueError, match=r"^does not decode: Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$"
    ):
        prove(jpeg[:-2] + bytes(100) + jpeg[-2:], LIMIT)
    with pytest.raises(ValueError, match=r"^does not decode: Premature end of JPEG file$"):
        prove(jpeg[:-2], LIMIT)


def flat_pictures():
    for size, mode in itertools.product([(64, 48), (600, 400)], ["L", "RGB"]):
        ramp = np.linspace(255, 0, size[0])
        drawn = Image.new("RGB", size, "white")
        ImageDraw.Draw(drawn).text((9, 9), "closed on Mondays", fill="black")
        yield Image.new(mode, size, "black")
        yield Image.new(mode, size, "white")
        yield drawn.convert(mode)
        yield Image.fromarray(np.tile(ramp, (size[1], 1)).astype(np.uint8)).convert(mode)


def test_flat_pictures_are_whole_though_they_are_full_of_zeros():
    runs = 0
    for picture in flat_pictures():
        for quality, options in itertools.product((30, 95), ({}, {"optimize": True}, {"progressive": True})):
            jpeg = encoded("JPEG", picture, quality=quality, **options)
            runs += bytes(64) in jpeg
            assert prove(jpeg, LIMIT).size == picture.size
        for kind, options in (("PNG", {}), ("WEBP", {"method": 0})):
            assert prove(encoded(kind, picture, **options), LIMIT).size == picture.size
    assert runs > 10


def inserted(jpeg, *more):
    return jpeg[:2] + b"".join(more) + jpeg[2:]


PLAIN = encoded("JPEG", photo(np.random.default_rng(3), 160, 120))


JFIF = PLAIN.index(b"JFIF\0") + 5


@pytest.mark.parametrize(
    "jpeg",
    [
        pytest.param(PLAIN + bytes(5000), id="zeros after the end"),
        pytest.param(PLAIN + b"SEFT" + b"\xff\xd8 what phones append", id="text after the end"),
        pytest.param(PLAIN + PLAIN[: len(PLAIN) // 2], id="half a photo after the end"),
        pytest.param(inserted(PLAIN, segment(0xE1, b"Exif\0\0broken")), id="broken EXIF"),
        pytest.param(inserted(PLAIN, segment(0xE1, b"Exif\0\0" + bytes(9000))), id="EXIF padded with zeros"),
        pytest.param(inserted(PLAIN, segment(0xE2, b"ICC_PROFILE\0\3\2xx")), id="broken ICC profile"),
        pytest.param(
            inserted(PLAIN, segment(0xE2, b"MPF\0II*\0\xff\xff\xff\x7f")), id="broken index of pictures"
        ),
        pytest.param(inserted(PLAIN, segment(0xEC, bytes(64)), segment(0xFE, b"\xff\xd9")), id="comments"),
        pytest.param(PLAIN[:JFIF] + b"\7\7" + PLAIN[JFIF + 2 :], id="unknown version"),
        pytest.param(PLAIN[:2] + b"\xff\xff\xff" + PLAIN[2:], id="filled between segments"),
        pytest.param(PLAIN[:-2] + b"\xff" * 9 + PLAIN[-2:], id="filled before the end"),
        pytest.param(encoded("JPEG", photo(np.random.default_rng(4), 90, 70).convert("CMYK")), id="CMYK"),
        pytest.param(encoded("JPEG", photo(np.random.default_rng(4), 90, 70), keep_rgb=True), id="RGB"),
        pytest.param(
            base64.b64decode(  # cjpeg -arithmetic -grayscale -quality 50
                "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV1"
                "9iZ2hnPk1xeXBkeFxlZ2P/yQALCAAQABABAREA/8wABgAQEAX/2gAIAQEAAD8A/wBtnyqEb8lEMJPeWU+vzhj/2Q=="
            ),
            id="arithmetic codes",
        ),
    ],
)
def test_what_spoils_no_pixel_of_a_jpeg_is_let_pass(jpeg):
    assert_whole(jpeg)


def test_of_the_two_pictures_of_a_stereo_jpeg_the_first_must_be_whole():
    rng = np.random.default_rng(0)
    first, second = photo(rng, 90, 70), photo(rng, 90, 70)
    both = encoded("MPO", first, save_all=True, append_images=[second])
    assert_whole(both)
    assert_whole(both[:-500] + bytes(500))
    start = both.index(b"\xff\xda") + 200
    with pytest.raises(ValueError, match=r"^does not decode: "):
        prove(both[:start] + bytes(900) + both[start + 900 :], LIMIT)


def flat_by_hand(factors, parameters=b"\0\x3f\0"):
    """A JPEG of 32 x 16 grey pixels, worked by hand; `factors` are those of the luma, chroma's are 1 x 1."""
    jpeg = encoded("JPEG", Image.new("RGB", (32, 16), (128, 128, 128)), subsampling=2)
    frame = next(start for kind, start, _ in segments(jpeg) if kind == 0xC0)
    luma = (factors >> 4) * (factors & 15)
    units = (32 * 16) // (64 * luma)
    # No change from block to block and the end of the block: 00 1010 in luma, 00 00 in chroma.
    bits = ("001010" * luma + "0000" * 2) * units
    codes = int(bits.ljust(-len(bits) // 8 * -8, "1"), 2).to_bytes(-(-len(bits) // 8))
    header = jpeg[: segments(jpeg)[-1][2] - 3] + parameters
    return header[: frame + 11] + bytes([factors]) + header[frame + 12 :] + codes + b"\xff\xd9"


@pytest.mark.parametrize("factors", [0x22, 0x21, 0x11, 0x41, 0x42])
def test_jpegs_of_any_subsampling_are_taken(factors):
    proved = assert_whole(flat_by_hand(factors), within=0)
    assert (proved.grey == 128).all()
    assert proved.size == (32, 16)


def test_parameters_that_libjpeg_does_without_may_be_zero():
    assert (assert_whole(flat_by_hand(0x22, b"\0\0\0"), within=0).grey == 128).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_grey_and_the_size_are_those_of_the_upright_photo(kind):
    upright = photo(np.random.default_rng(5), 160, 96)
    expected = prove(encoded("PNG", upright), LIMIT)
    assert expected.size == (160, 96)
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in stored.items():
        tags = Image.Exif()
        tags[0x112] = orientation
        options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
        proved = assert_whole(encoded(kind, upright.transpose(turn), exif=tags, **options))
        assert proved.size == (160, 96)
        assert np.abs(proved.grey.astype(int) - expected.grey).mean() < 2, orientation


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 100), (100, 1), (9, 700), (3000, 5), (31, 33), (32, 32), (1000, 40)]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_narrow_and_tiny_photos_are_averaged_too(kind, size):
    assert_whole(encoded(kind, photo(np.random.default_rng(6), *size)), within=1)


def test_a_photo_as_large_as_max_pixels_is_proved_and_one_pixel_more_is_not(make_photo, tmp_path):
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        content = make_photo(tmp_path / kind, size=(64, 48), format=kind).read_bytes()
        assert prove(content, 64 * 48).size == (64, 48)
        with pytest.raises(ValueError, match=r"^64x48 is more than create_csv.max_pixels \(3071\)$"):
            prove(content, 64 * 48 - 1)


def test_damaged_photos_are_rows_of_the_rejected_files_and_their_copies_are_not_confused(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    jpeg, png = encoded("JPEG", photo(rng, 160, 120)), encoded("PNG", photo(rng, 64, 48))
    (folder / "good.jpg").write_bytes(jpeg)
    (folder / "good.png").write_bytes(png)
    (folder / "zero tail.jpg").write_bytes(zero_tail(jpeg, rng))
    (folder / "flipped.png").write_bytes(png[:99] + bytes([png[99] ^ 4]) + png[100:])
    photos, rejected = scanning.scan(tmp_path / "images", LIMIT)[:2]
    assert [each.image_path.rsplit("/")[-1] for each in photos] == ["good.jpg", "good.png"]
    assert {row.path.rsplit("/")[-1]: row.reason for row in rejected} == {
        "zero tail.jpg": "does not decode: Premature end of JPEG file",
        "flipped.png": "does not decode: its chunk IDAT at byte 33 has a wrong checksum",
    }
