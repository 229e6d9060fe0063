import io
import re
import struct
import threading

import numpy as np
import pytest
from PIL import Image

from landmarks.errors import InputError
from landmarks.photos import images
from landmarks.photos._proving import prove

# What an EXIF orientation means for the stored rows 1 2 3 and 4 5 6.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}
ORIENTATION = 0x112, 3, 1, b"\x06"


def blocks(rows):
    """A grey photo of 16 x 16 pixels for each number, which JPEG keeps apart."""
    return Image.fromarray(np.kron(np.array(rows) * 40, np.ones((16, 16))).astype(np.uint8))


def block_values(image):
    return (np.asarray(image.convert("L"))[8::16, 8::16] / 40).round().astype(int).tolist()


def exif(*entries):
    """An EXIF block worked by hand from entries of (tag, type, count, value or offset)."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in sorted(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


def pixels(path):
    return np.asarray(images.read(path)).tolist()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photo_is_turned_upright_by_its_exif_orientation(tmp_path, kind, orientation):
    tags = Image.Exif()
    tags[0x112] = orientation
    blocks(UPRIGHT[1]).save(tmp_path / "photo", kind, exif=tags)
    image = images.read(tmp_path / "photo")
    assert image.mode == "RGB"
    assert block_values(image) == UPRIGHT[orientation]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        pytest.param(b"Exif\0\0", 1, id="empty"),
        pytest.param(b"Exif\0\0II", 1, id="cut in the header"),
        pytest.param(b"Exif\0\0garbage garbage", 1, id="no header"),
        pytest.param(exif(ORIENTATION)[:-10], 1, id="cut in the first entry"),
        pytest.param(exif((0x112, 3, 1, b"\x00")), 1, id="orientation 0"),
        pytest.param(exif((0x112, 3, 1, b"\x09")), 1, id="orientation 9"),
        pytest.param(exif((0x112, 2, 2, b"6\0")), 1, id="orientation as text"),
        pytest.param(exif((0x112, 5, 1, b"\xff\xff\xff\x7f")), 1, id="orientation beyond the end"),
        pytest.param(exif(ORIENTATION, (0x8769, 4, 1, b"\xff\xff\xff\x7f")), 6, id="offset beyond the end"),
        pytest.param(exif(ORIENTATION, (0x11A, 2, 4, b"abc")), 6, id="resolution as text"),
        pytest.param(exif(ORIENTATION, (0x100, 9, 1, b"\xff\xff\xff\xff")), 6, id="width -1"),
        pytest.param(exif(ORIENTATION, (0x9C9B, 2, 4, b"\xff\xfe\xff")), 6, id="text as bytes"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_exif_block_does_not_spoil_the_photo(tmp_path, kind, block, orientation):
    blocks(UPRIGHT[1]).save(tmp_path / "photo", kind, exif=block)
    assert block_values(images.read(tmp_path / "photo")) == UPRIGHT[orientation]


@pytest.mark.parametrize(
    ("stored", "kind", "expected"),
    [
        pytest.param(Image.new("L", (2, 2), 100), "PNG", [100, 100, 100], id="grey"),
        pytest.param(Image.new("1", (2, 2), 1), "PNG", [255, 255, 255], id="1-bit white"),
        pytest.param(Image.new("1", (2, 2), 0), "TIFF", [0, 0, 0], id="1-bit black"),
        pytest.param(Image.new("LA", (2, 2), (100, 255)), "PNG", [100, 100, 100], id="LA opaque"),
        pytest.param(Image.new("LA", (2, 2), (100, 0)), "PNG", [255, 255, 255], id="LA transparent"),
        pytest.param(Image.new("RGBA", (2, 2), (10, 20, 30, 255)), "PNG", [10, 20, 30], id="RGBA opaque"),
        pytest.param(Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "PNG", [255, 255, 255], id="transparent"),
        # 0.2 of black over 0.8 of white
        pytest.param(Image.new("RGBA", (2, 2), (0, 0, 0, 51)), "PNG", [204, 204, 204], id="RGBA translucent"),
        pytest.param(Image.new("RGB", (2, 2), (10, 20, 30)).quantize(2), "PNG", [10, 20, 30], id="palette"),
        pytest.param(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF", [255, 0, 0], id="CMYK red"),
        pytest.param(Image.new("CMYK", (2, 2), (0, 255, 255, 255)), "TIFF", [0, 0, 0], id="CMYK black"),
        pytest.param(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", [255, 0, 0], id="CMYK JPEG"),
    ],
)
def test_every_mode_is_read_as_the_rgb_that_a_viewer_shows(tmp_path, stored, kind, expected):
    stored.save(tmp_path / "photo", kind)
    assert np.abs(np.array(pixels(tmp_path / "photo")) - expected).max() <= 1


def test_transparent_entries_of_a_palette_show_white(tmp_path):
    stored = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    stored.putpalette([10, 20, 30, 40, 50, 60])
    stored.save(tmp_path / "photo", "PNG", transparency=0)
    assert pixels(tmp_path / "photo") == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_to_8_bits(tmp_path, kind):
    stored = np.array([[0, 256 * 128, 65535]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "photo", kind)
    assert pixels(tmp_path / "photo") == [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_of_an_animation_or_many_pages_the_first_is_read(tmp_path, kind):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(tmp_path / "photo", kind, save_all=True, append_images=[second], **options)
    with Image.open(tmp_path / "photo") as stored:
        assert stored.n_frames == 2
    assert pixels(tmp_path / "photo")[0][0] == [255, 0, 0]


def test_of_the_two_pictures_of_a_stereo_jpeg_the_first_is_read(tmp_path):
    first, second = blocks([[1, 2]]), blocks([[3, 4]])
    first.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[second])
    assert block_values(images.read(tmp_path / "photo.jpg")) == [[1, 2]]


@pytest.mark.parametrize("content", [None, b"", b"not a photo"], ids=["gone", "empty", "overwritten"])
def test_a_photo_that_does_not_decode_is_named(tmp_path, content):
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: "):
        images.read(path)


def test_the_content_of_a_file_is_a_photo_like_the_file(tmp_path, make_photo):
    path = make_photo(tmp_path / "photo.jpg")
    np.testing.assert_array_equal(images.read(path.read_bytes()), images.read(path))
    with pytest.raises(InputError, match=r"^photo: empty file"):
        images.read(b"")


def test_pixels_of_a_tiff_that_are_not_a_number_are_black(tmp_path):
    stored = np.array([[np.nan, np.inf, 1.0]], np.float32)
    Image.fromarray(stored).save(tmp_path / "photo.tif")
    assert pixels(tmp_path / "photo.tif")[0] == [[0, 0, 0], [0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    ("kind", "at_least", "size"),
    [
        ("JPEG", 100, (160, 120)),  # a quarter; an eighth would be 80 x 60
        ("JPEG", 60, (80, 60)),
        ("JPEG", 481, (640, 480)),
        ("PNG", 60, (640, 480)),
    ],
)
def test_a_jpeg_may_be_decoded_smaller_but_no_side_below_what_is_needed(
    tmp_path, make_photo, kind, at_least, size
):
    photo = make_photo(tmp_path / "photo", size=(640, 480), format=kind)
    small = images.read(photo, at_least)
    assert small.size == size
    expected = images.read(photo).resize(size, Image.Resampling.BOX)
    assert np.abs(np.asarray(small, float) - np.asarray(expected)).mean() < 1


def test_the_whole_photo_is_stretched_to_a_square(tmp_path):
    wide = np.zeros((10, 80, 3), np.uint8)
    wide[:, 40:] = 200, 100, 50
    Image.fromarray(wide).save(tmp_path / "photo", "PNG")
    square = images.Views(32).of(tmp_path / "photo")[0]
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8
    assert (square[:, :15] == 0).all()
    assert (square[:, 17:] == [200, 100, 50]).all()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((16, 0, 32, 32), [[2], [5]]),
        ((0, 16, 48, 32), [[4, 5, 6]]),
        ((-100, -1, 1e6, 16), [[1, 2, 3]]),  # clipped to the photo
        ((15.6, 16.4, 32.2, 99), [[5]]),  # rounded to 16, 16, 32
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_crop_is_what_lies_between_its_corners_in_the_upright_photo(tmp_path, orientation, box, expected):
    stored = {1: [[1, 2, 3], [4, 5, 6]], 6: [[3, 6], [2, 5], [1, 4]]}[orientation]
    tags = Image.Exif()
    tags[0x112] = orientation
    blocks(stored).save(tmp_path / "photo", "PNG", exif=tags)
    crop = images.Crop(tmp_path / "photo", box)
    assert images.read(crop).size == (16 * len(expected[0]), 16 * len(expected))
    assert block_values(images.read(crop)) == expected
    (square,) = images.Views(32).of(crop)
    np.testing.assert_array_equal(square, images.read(crop).resize((32, 32), Image.Resampling.BILINEAR))


def test_a_small_crop_of_a_jpeg_has_all_its_pixels(tmp_path, make_photo):
    photo = make_photo(tmp_path / "photo.jpg", size=(640, 480))
    crop = images.read(images.Crop(photo, (200, 100, 264, 164)), at_least=64)
    np.testing.assert_array_equal(crop, np.asarray(images.read(photo))[100:164, 200:264])


@pytest.mark.parametrize("box", [(48, 0, 60, 9), (0, -9, 9, 0), (3.2, 0, 3.4, 9)])
def test_a_crop_without_a_pixel_is_refused(tmp_path, box):
    blocks([[1, 2, 3]]).save(tmp_path / "photo", "PNG")
    with pytest.raises(InputError, match=r"photo: the box .* has no pixel of the photo, which is 48x16"):
        images.read(images.Crop(tmp_path / "photo", box))


def thirds(width=60, height=20):
    """A red, a green and a blue square beside each other."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for third in range(3):
        pixels[:, third * width // 3 : (third + 1) * width // 3, third] = 200
    return Image.fromarray(pixels)


@pytest.mark.parametrize("upright", [False, True])
def test_a_photo_is_resized_as_asked(upright):
    def fitted(resize):
        photo = thirds().transpose(Image.Transpose.TRANSPOSE) if upright else thirds()
        found = np.asarray(images.fitted(photo, 30, resize, (1, 2, 3)))
        return found.transpose(1, 0, 2) if upright else found

    crop, pad, keep = (fitted(resize) for resize in ("crop", "pad", "keep"))
    assert (crop == [0, 200, 0]).all()
    assert crop.shape == pad.shape == (30, 30, 3)
    assert (pad[:10] == [1, 2, 3]).all()
    assert (pad[20:] == [1, 2, 3]).all()
    np.testing.assert_array_equal(pad[10:20], keep)
    assert keep.shape == (10, 30, 3)
    for third, middle in enumerate((5, 15, 25)):
        assert (keep[:, middle - 3 : middle + 3] == np.eye(3)[third] * 200).all()


def test_a_photo_is_shown_at_each_scale_and_mirrored(tmp_path):
    thirds().save(tmp_path / "photo.png")
    shown = images.Views(30, "keep", scales=(1.0, 0.5), flip=True).of(tmp_path / "photo.png")
    assert [view.shape for view in shown] == [(10, 30, 3), (10, 30, 3), (5, 15, 3), (5, 15, 3)]
    for view, mirrored in (shown[:2], shown[2:]):
        third = view.shape[1] // 6
        assert view[2, third].argmax() == 0
        np.testing.assert_array_equal(view[:, ::-1], mirrored)


def test_a_photo_keeps_its_aspect_to_the_nearest_pixel_and_is_never_empty():
    assert images.fitted(Image.new("RGB", (400, 301)), 32, "keep").size == (32, 24)
    assert images.fitted(Image.new("RGB", (400, 2)), 32, "keep").size == (32, 1)


def test_batches_hold_the_photos_in_order_and_the_last_is_shorter(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        Image.new("RGB", (9, 5), (i, 0, 0)).save(path)
    found = list(images.batches(paths, images.Views(4), batch_size=3, workers=2))
    assert [np.shape(batch) for batch in found] == [(3, 1, 4, 4, 3), (3, 1, 4, 4, 3), (1, 1, 4, 4, 3)]
    assert np.concatenate(found)[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_bad_photo_in_a_batch_is_named(tmp_path, make_photo):
    good, bad = make_photo(tmp_path / "good.jpg"), tmp_path / "bad.jpg"
    with pytest.raises(InputError, match=re.escape(str(bad))):
        list(images.batches([good, bad], images.Views(8), batch_size=2))


def test_results_keep_the_order_of_the_items_though_the_first_is_last_to_finish():
    last_started = threading.Event()

    def slow_first(item):
        if item == 0:
            assert last_started.wait(10)
        if item == 3:
            last_started.set()
        return item * 10

    assert list(images.in_order(slow_first, range(6), workers=2)) == [0, 10, 20, 30, 40, 50]


def test_few_items_are_taken_ahead():
    taken = []
    results = images.in_order(lambda item: item, (taken.append(i) or i for i in range(1000)), workers=2)
    assert [next(results) for _ in range(10)] == list(range(10))
    results.close()
    assert len(taken) <= 10 + 4 * 2


def test_the_size_is_told_by_the_header_and_large_tiles_count(make_photo, tmp_path):
    for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):  # noqa: A001
        photo = make_photo(tmp_path / format, size=(70, 30), format=format).read_bytes()
        assert images.dimensions(photo) == (70, 30)
    assert images.dimensions(photo[: len(photo) - 9]) == (70, 30) == images.decode(photo).size
    tiff = tiled(65520, 32752)
    assert images.dimensions(tiff) == (65520, 32752)
    with pytest.raises(ValueError, match="65520x32752 is more than"), images.opened(tiff, 10**6):
        pass


def tiled(width, height):
    """A TIFF of 50 x 50 pixels in one tile of this size, in 134 bytes."""
    tags = [(256, 1, 50), (257, 1, 50), (258, 1, 8), (259, 1, 5), (262, 1, 1), (277, 1, 1)]
    tags += [(322, 1, width), (323, 1, height), (324, 1, 8), (325, 1, 90)]
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)


def plain(kind, size):
    with io.BytesIO() as file:
        Image.new("L", size, 77).save(file, kind)
        return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(65_536, 1), (1, 65_536), (3, 70_000), (3_000_000, 2)])
def test_a_side_that_would_cost_more_than_its_pixels_is_refused_by_the_header(monkeypatch, kind, size):
    photo = plain(kind, size)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    reason = f"^{size[0]}x{size[1]} has a side of more than 65535 pixels$"
    for reads in (images.dimensions, images.decode, lambda content: prove(content, 10**8)):
        with pytest.raises(ValueError, match=reason):
            reads(photo)
    with pytest.raises(InputError, match=f"photo: {reason[1:]}"):
        images.read(photo)


@pytest.mark.parametrize("size", [(65_536, 16), (16, 65_536)])
def test_a_tile_with_such_a_side_is_refused_as_a_photo_is(size):
    with pytest.raises(ValueError, match="has a side of more than 65535 pixels"):
        images.dimensions(tiled(*size))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(65_535, 1), (2, 65_535)])
def test_the_longest_side_of_a_jpeg_is_read_in_every_format(kind, size):
    assert images.read(plain(kind, size)).size == size
    assert images.read(plain(kind, size)).getpixel((size[0] - 1, size[1] - 1)) == (77, 77, 77)
