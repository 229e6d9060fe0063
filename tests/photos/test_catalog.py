from pathlib import Path

import pytest

from landmarks import tables
from landmarks.errors import InputError
from landmarks.photos.catalog import (
    HEADER,
    Photo,
    numbered,
    read_catalog,
    read_groups,
    read_photos,
    write_catalog,
    write_photos,
)
from landmarks.photos.images import Crop


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


NAMES = [
    "001", "NA", "None", "1e5", "a,b", 'the "Old" Gate', " padded ", "Chùa Một Cột", "故宫", "a\nb"
]  # fmt: skip


def test_any_class_name_survives_the_csv_file():
    photos = [Photo(f"data/x/images/{name}/1.jpg", name) for name in NAMES]
    write_photos(Path("new/catalog.csv"), photos)
    assert read_photos(Path("new/catalog.csv")) == photos


def test_the_csv_file_is_plain_utf8_with_a_header_and_unix_lines():
    tables.write(Path("catalog.csv"), HEADER, [("data/x/images/a,b/1.jpg", "a,b"), ("data/Huế/1.jpg", "001")])
    assert Path("catalog.csv").read_bytes().decode("utf-8") == (
        'image_path,class_image\n"data/x/images/a,b/1.jpg","a,b"\ndata/Huế/1.jpg,001\n'
    )


def test_a_csv_file_of_a_header_alone_holds_no_photos():
    write_photos(Path("empty.csv"), [])
    assert read_photos(Path("empty.csv")) == []


def test_a_box_adds_columns_and_photos_without_one_leave_them_empty():
    photos = [Photo("a/1.jpg", "a", (1, 2.5, 30, 1e3)), Photo("a/2.jpg", "a")]
    write_photos(Path("test.csv"), photos)
    assert Path("test.csv").read_text() == (
        "image_path,class_image,x1,y1,x2,y2\na/1.jpg,a,1,2.5,30,1000\na/2.jpg,a,,,,\n"
    )
    assert read_photos(Path("test.csv")) == photos
    assert [photo.source for photo in photos] == [Crop(Path("a/1.jpg"), (1, 2.5, 30, 1e3)), Path("a/2.jpg")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_path,class_image,x1,y1,x2,y2\na,a,1,2,3,4\na,a,1,,3,4\n", "row 3: '1,,3,4' is not a box"),
        ("image_path,class_image,x1,y1\n", "the header is 'image_path,class_image,x1,y1', expected"),
        ("", "the header is '', expected 'image_path,class_image'"),
        ("path,class\na,b\n", "the header is 'path,class', expected 'image_path,class_image'"),
        ("class_image,image_path\n", "the header is 'class_image,image_path', expected"),
        ("image_path;class_image\n", "the header is 'image_path;class_image', expected"),
        ("image_path,class_image\na.jpg,a\nb.jpg\n", "row 3: ['b.jpg'] is not an image path and a class"),
        ("image_path,class_image\na.jpg,a,b\n", "row 2: ['a.jpg', 'a', 'b'] is not an image path and a"),
        ("image_path,class_image\na/1.jpg,\n", "row 2: ['a/1.jpg', ''] is not an image path and a class"),
        ("image_path,class_image\n\na/1.jpg,a\n", "row 2: [] is not an image path and a class"),
        ("image_path,class_image\nHuế,a\n".encode("utf-16"), "not a CSV file in UTF-8"),
        ("image_path,class_image\ncafé,a\n".encode("latin-1"), "not a CSV file in UTF-8"),
    ],
)  # fmt: skip
def test_a_csv_file_of_another_kind_is_refused_with_what_is_wrong(content, message):
    path = Path("catalog.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_photos(path)
    assert str(caught.value).startswith("catalog.csv")
    assert message in str(caught.value)


def test_a_missing_csv_file_says_what_makes_it():
    with pytest.raises(InputError, match=r"catalog\.csv: no such file; `dvc repro` makes it"):
        read_photos(Path("catalog.csv"))


def test_names_are_numbered_by_code_point():
    names, numbers = numbered(["b", "é", "B", "a,b", "001", "b"])
    assert names == ["001", "B", "a,b", "b", "é"]
    assert numbers.tolist() == [3, 4, 1, 2, 0, 3]


def test_a_catalog_has_the_digest_of_each_photo():
    photos = [Photo(f"data/x/images/{name}/1.jpg", name) for name in NAMES]
    contents = [f"{place:064x}" for place in range(len(NAMES))]
    write_catalog(Path("catalog.csv"), photos, contents)
    assert read_catalog(Path("catalog.csv")) == (
        photos,
        {photo.image_path: content for photo, content in zip(photos, contents, strict=True)},
    )


def test_a_catalog_of_ones_own_needs_no_digests():
    Path("catalog.csv").write_text("image_path,class_image\na/1.jpg,a\n", encoding="utf-8")
    assert read_catalog(Path("catalog.csv")) == ([Photo("a/1.jpg", "a")], {})


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_catalog, "image_path,sha256\n", "the header is 'image_path,sha256', expected"),
        (read_catalog, "image_path,class_image,sha256\na/1.jpg,a\n", "['a/1.jpg', 'a'] is not image_path"),
        (read_catalog, "image_path,class_image,sha256\na/1.jpg,a,\n", "['a/1.jpg', 'a', ''] is not"),
        (read_groups, "image_path,class_image\n", "the header is 'image_path,class_image', expected"),
        (read_groups, "image_path,class_image,group,elsewhere\na/1.jpg,a,b\n", "['a/1.jpg', 'a', 'b'] is"),
    ],
)  # fmt: skip
def test_tables_of_another_kind_are_refused_with_what_is_wrong(read, content, message):
    Path("table.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read(Path("table.csv"))
    assert str(caught.value).startswith("table.csv")
    assert message in str(caught.value)


def test_groups_are_of_near_copies_within_a_landmark_alone():
    Path("near.csv").write_text(
        "image_path,class_image,group,elsewhere\na/1.jpg,a,a/0.jpg,\na/2.jpg,a,,b/1.jpg\n", encoding="utf-8"
    )
    assert read_groups(Path("near.csv")) == {"a/1.jpg": "a/0.jpg"}
