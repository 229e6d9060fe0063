import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks import tables
from landmarks.errors import InputError
from landmarks.photos import scanning
from landmarks.photos.catalog import Photo, Rejected, read_photos, write_photos

IMAGES = Path("data/x/images")
LIMIT = 64 * 48


def scan(*arguments, **options):
    """The photos and the rejected files, which most tests are about."""
    return scanning.scan(*arguments, **options)[:2]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


def encoded(kind, image=NOISE, **save):
    file = io.BytesIO()
    image.save(file, kind, **save)
    return file.getvalue()


def png(width, height):
    """A PNG whose header promises width x height pixels, with hardly any behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def put(name, content):
    path = IMAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path.as_posix()


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    IMAGES.mkdir(parents=True)


@pytest.fixture
def good(make_photo):
    return Photo(make_photo(IMAGES / "a/good.jpg").as_posix(), "a")


def test_the_class_of_a_photo_is_the_first_folder_however_deep_it_lies(make_photo):
    for i, name in enumerate(["b/1.jpg", "a/x/y/2.jpg", "a/b/3.jpg", "a/0.jpg"]):
        make_photo(IMAGES / name, seed=i)
    photos, rejected = scan(IMAGES, LIMIT)
    assert photos == [
        Photo("data/x/images/a/0.jpg", "a"),
        Photo("data/x/images/a/b/3.jpg", "a"),
        Photo("data/x/images/a/x/y/2.jpg", "a"),
        Photo("data/x/images/b/1.jpg", "b"),
    ]
    assert rejected == []


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.txt", "photo"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_photo_is_told_by_its_content_not_by_its_name(kind, name):
    path = put(f"a/{name}", encoded(kind))
    assert scan(IMAGES, LIMIT) == ([Photo(path, "a")], [])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded("PNG", save_all=True, append_images=[NOISE.rotate(90)]), id="animated PNG"),
        pytest.param(encoded("WEBP", save_all=True, append_images=[NOISE.rotate(90)]), id="animated WebP"),
        pytest.param(encoded("MPO", save_all=True, append_images=[NOISE.rotate(90)]), id="stereo JPEG"),
    ],
)
def test_photos_of_several_frames_are_photos(content):
    path = put("a/photo", content)
    assert scan(IMAGES, LIMIT) == ([Photo(path, "a")], [])


UNKNOWN = "not an image in one of the formats JPEG, PNG, WEBP, BMP, TIFF"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "empty file", id="empty"),
        pytest.param(b"\n", UNKNOWN, id="one byte"),
        pytest.param(b"Tower of London, 1897", UNKNOWN, id="text"),
        pytest.param(b"<!DOCTYPE html><title>404 Not Found</title>", UNKNOWN, id="web page"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNKNOWN, id="SVG"),
        pytest.param(bytes(1000), UNKNOWN, id="zeros"),
        pytest.param(encoded("GIF", NOISE.convert("P")), UNKNOWN, id="GIF"),
        pytest.param(encoded("ICO"), UNKNOWN, id="icon"),
        pytest.param(encoded("PPM"), UNKNOWN, id="PPM"),
        pytest.param(
            png(20000, 20000), "decompression bomb: more than Pillow's limit of 178956970 pixels", id="bomb"
        ),
        pytest.param(png(65, 48), "65x48 is more than create_csv.max_pixels (3072)", id="large"),
        pytest.param(
            encoded("JPEG", NOISE.resize((64, 49))),
            "64x49 is more than create_csv.max_pixels (3072)",
            id="large JPEG",
        ),
    ],
)
def test_what_is_no_photo_is_rejected_with_its_reason(good, content, reason):
    path = put("b/bad.jpg", content)
    assert scan(IMAGES, LIMIT) == ([good], [Rejected(path, reason)])


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_photo_is_rejected(good, kind, share):
    content = encoded(kind)
    path = put("b/bad.jpg", content[: round(share * len(content))])
    photos, [rejected] = scan(IMAGES, LIMIT)
    assert photos == [good]
    assert rejected.path == path
    assert rejected.reason.startswith("does not decode: ") or rejected.reason == UNKNOWN


def test_a_photo_that_ends_before_its_promised_pixels_is_rejected(good):
    path = put("b/bad.png", png(64, 48))
    photos, [rejected] = scan(IMAGES, LIMIT)
    assert (photos, rejected.path) == ([good], path)
    assert rejected.reason.startswith("does not decode: ")


def test_a_photo_that_cannot_be_read_is_rejected_with_what_the_system_says(good, monkeypatch):
    path = put("b/locked.jpg", encoded("JPEG"))
    opens = Path.open

    def refuse(self, *args, **kwargs):
        if self.name == "locked.jpg":
            raise PermissionError(13, "Permission denied", str(self))
        return opens(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert scan(IMAGES, LIMIT) == ([good], [Rejected(path, "does not decode: Permission denied")])


def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(good, monkeypatch):
    put("b/inner/photo.jpg", encoded("JPEG"))
    scans = os.scandir

    def refuse(path="."):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return scans(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"data/x/images/b/inner: .*Permission denied"):
        scan(IMAGES, LIMIT)


def test_a_link_to_a_photo_that_is_gone_is_rejected(good):
    path = IMAGES / "b/gone.jpg"
    path.parent.mkdir()
    path.symlink_to("elsewhere.jpg")
    assert scan(IMAGES, LIMIT) == ([good], [Rejected(path.as_posix(), "no such file")])


def test_a_photo_in_no_class_folder_is_rejected(good):
    path = put("loose.jpg", encoded("JPEG"))
    assert scan(IMAGES, LIMIT) == ([good], [Rejected(path, "lies in no class folder")])


@pytest.mark.parametrize("name", [b"a/caf\xe9.jpg", b"caf\xe9/photo.jpg"], ids=["file", "class"])
def test_a_name_that_is_not_utf8_is_rejected_and_can_be_written(good, name):
    try:
        put(os.fsdecode(name), encoded("JPEG"))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    photos, rejected = scan(IMAGES, LIMIT)
    assert photos == [good]
    written = name.decode("utf-8", "backslashreplace")
    assert rejected == [Rejected(f"data/x/images/{written}", "its name is not UTF-8")]
    assert "\\xe9" in written
    tables.write(Path("rejected.csv"), Rejected._fields, rejected)
    assert "its name is not UTF-8" in Path("rejected.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("copy", ["a/good copy.jpg", "a/x/photo.png", "b/photo.jpg"])
def test_a_copy_is_rejected_and_names_the_first_also_across_classes(good, copy):
    path = put(copy, Path(good.image_path).read_bytes())
    first = min(path, good.image_path)
    photos, rejected = scan(IMAGES, LIMIT)
    assert [photo.image_path for photo in photos] == [first]
    assert rejected == [
        Rejected(max(path, good.image_path), f"the same photo, byte for byte, as {first}"),
    ]


def test_copies_of_a_broken_photo_are_each_rejected_for_what_they_are(good):
    paths = [put(name, b"text") for name in ("b/1.jpg", "b/2.jpg")]
    assert scan(IMAGES, LIMIT)[1] == [Rejected(path, UNKNOWN) for path in paths]


def test_photos_alike_in_all_but_the_last_byte_are_told_apart_by_their_pixels():
    content = encoded("PNG")
    first, copy = put("a/1.png", content), put("a/2.png", content + b"\0")
    other = put("a/3.png", encoded("PNG", NOISE.point([*range(255), 254] * 3)))
    assert scan(IMAGES, LIMIT) == (
        [Photo(first, "a"), Photo(other, "a")],
        [Rejected(copy, f"the same photo, pixel for pixel, as {first}")],
    )


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "WEBP"])
def test_of_two_photos_of_equal_pixels_the_second_is_a_copy(kind):
    first, copy = put("a/1", encoded("PNG")), put("b/2", encoded(kind, lossless=True))
    reason = f"the same photo, pixel for pixel, as {first}"
    assert scan(IMAGES, LIMIT) == ([Photo(first, "a")], [Rejected(copy, reason)])


def test_photos_that_differ_in_their_sides_or_finest_pattern_alone_are_no_copies():
    wave = np.resize([30, -30, -30, 30], (192, 1))  # which is not seen in a JPEG decoded smaller
    for sign in (1, -1):
        pixels = (128 + sign * wave * np.resize(wave, 256) // 30).astype(np.uint8)
        put(f"a/{sign}.jpg", encoded("JPEG", Image.fromarray(pixels)))
    for width, height in ((60, 40), (40, 60), (80, 30)):
        for grey in (128, 129):
            put(f"a/{width} {grey}.bmp", encoded("BMP", Image.new("L", (width, height), grey)))
    photos, rejected = scan(IMAGES, 256 * 192)
    assert (len(photos), rejected) == (8, [])


def test_hidden_files_and_folders_are_ignored(good):
    for name in (".DS_Store", "a/.hidden.jpg", "a/.thumbnails/photo.jpg", ".git/photo.jpg"):
        put(name, encoded("JPEG"))
    assert scan(IMAGES, LIMIT) == ([good], [])


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("b", "../elsewhere"),
        ("b", "a"),
        ("a/more", "../../elsewhere"),
        ("a/loop", ".."),
        ("a/x/y", "../../a"),
    ],
)
def test_a_link_to_a_folder_is_refused_for_dvc_would_not_see_into_it(good, make_photo, link, target):
    make_photo(IMAGES.parent / "elsewhere/photo.jpg", 1)
    (IMAGES / link).parent.mkdir(exist_ok=True)
    (IMAGES / link).symlink_to(Path(target), target_is_directory=True)
    with pytest.raises(InputError, match=f"^data/x/images/{link}: a link to a folder, in which DVC sees no"):
        scan(IMAGES, LIMIT)


def test_the_folder_of_all_landmarks_may_be_a_link(make_photo):
    make_photo(Path("elsewhere/a/photo.jpg"))
    IMAGES.rmdir()
    IMAGES.symlink_to(Path("elsewhere").resolve(), target_is_directory=True)
    assert scan(IMAGES, LIMIT) == ([Photo("data/x/images/a/photo.jpg", "a")], [])


EXPECTED = "expected one folder of photos per landmark, as in data/x/images/<landmark>/photo.jpg"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "data/x/images: no such folder; "),
        ({}, "data/x/images: no class folder in it; "),
        ({"loose.jpg": encoded("JPEG")}, "data/x/images: no class folder in it; "),
        ({".cache/a.jpg": encoded("JPEG")}, "data/x/images: no class folder in it; "),
        ({"a/.hidden": b""}, "data/x/images: none of its 0 files is a usable photo; "),
        (
            {"a/1.jpg": b"", "b/2.jpg": b"text"},
            "data/x/images: none of its 2 files is a usable photo (data/x/images/a/1.jpg: empty file); ",
        ),
    ],
    ids=["missing", "empty", "no folder", "hidden folder", "no visible file", "no photo"],
)
def test_a_dataset_without_photos_is_an_error_that_says_what_is_expected(files, message):
    if files is None:
        shutil.rmtree(IMAGES)
    for name, content in (files or {}).items():
        put(name, content)
    with pytest.raises(InputError) as caught:
        scan(IMAGES, LIMIT)
    assert str(caught.value) == message + EXPECTED


def test_any_class_name_survives_the_scan_and_the_csv_file(make_photo):
    names = ["001", "NA", "a,b", 'the "Old" Gate', " padded ", "Chùa Một Cột", "故宫", "a\nb"]
    for seed, name in enumerate(names):
        make_photo(IMAGES / name / "1.jpg", seed)
    photos, rejected = scan(IMAGES, LIMIT)
    write_photos(Path("catalog.csv"), photos)
    assert [photo.class_image for photo in read_photos(Path("catalog.csv"))] == sorted(names)
    assert rejected == []


def test_copies_stay_where_a_ground_truth_says_what_they_are(make_photo):
    photo = make_photo(IMAGES / "a/1.jpg")
    (IMAGES / "b").mkdir()
    (IMAGES / "b/copy.jpg").write_bytes(photo.read_bytes())
    assert len(scan(IMAGES, LIMIT)[0]) == 1
    photos, rejected = scan(IMAGES, LIMIT, keep_copies=True)
    assert [photo.class_image for photo in photos] == ["a", "b"]
    assert rejected == []


def test_a_name_with_a_carriage_return_and_a_pipe_are_rejected(good):
    put("a/line\rbreak.jpg", encoded("JPEG"))
    os.mkfifo(IMAGES / "a/pipe.jpg")
    photos, rejected = scan(IMAGES, LIMIT)
    assert photos == [good]
    assert [row.reason for row in rejected] == ["its name has a carriage return", "not a regular file"]
