"""What the stages hand to each other, damaged on purpose: it is noticed, or changes nothing."""

import random
import sys

import h5py
import numpy as np
import pytest

from landmarks import hdf5
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.searching import features, rankings
from landmarks.searching.photo_rows import write_photos

PHOTOS = [Photo(f"data/mine/images/城堡/{row}.jpg", f"城堡 {row % 5}") for row in range(300)]
VECTORS = np.random.default_rng(0).random((300, 64), np.float32)
ATTRIBUTES = {"model_sha256": "0" * 64, "kind": "timm"}


def write_features(path, vectors=VECTORS, photos=PHOTOS, attributes=ATTRIBUTES):
    with hdf5.writing(path, features.KIND) as file:
        features._write(file, vectors, photos, attributes)


def write_rankings(path):
    write_features(store := path.with_name("features.h5"))
    with features.opened(store) as index:
        found = rankings.retrieve(index, index, "L1", None, 1 << 28)
        rankings.write(path, PHOTOS, PHOTOS, 300, found, {"distance": "L1"}, ["城堡 1"] * 300)


def read_features(path):
    with features.opened(path) as store:
        return store.features[:].tobytes(), store.photos, store.attributes


def read_rankings(path):
    with rankings.opened(path) as store:
        blocks = [(block.rows.tobytes(), block.distances.tobytes()) for _, block in store.blocks()]
        return blocks, store.queries, store.index, store.predicted, store.attributes


def one_bit(content, chance):
    place = chance.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8


def one_bit_of_what_is_not_rows(content, chance):
    place = chance.randrange(8 * 1500)
    content[place // 8] ^= 1 << place % 8


def a_hole(content, chance):
    start = chance.randrange(len(content) - 4096)
    content[start : start + 4096] = bytes(4096)


def not_a_number(content, chance):
    start = chance.randrange(2000, len(content) // 2) // 4 * 4
    content[start : start + 4] = np.float32([chance.choice([np.nan, np.inf, -np.inf])]).tobytes()


def cut(content, chance):
    del content[chance.randrange(len(content)) :]


def swapped(content, chance):
    start = chance.randrange(2000, len(content) // 2)
    content[start : start + 512], content[start + 512 : start + 1024] = (
        content[start + 512 : start + 1024],
        content[start : start + 512],
    )


@pytest.mark.parametrize(
    ("write", "read"), [(write_features, read_features), (write_rankings, read_rankings)]
)
@pytest.mark.parametrize("damage", [one_bit, one_bit_of_what_is_not_rows, a_hole, not_a_number, cut, swapped])
def test_damage_is_noticed_or_changes_nothing(tmp_path, write, read, damage):
    path = tmp_path / "damaged.h5"
    write(path)
    content, whole = path.read_bytes(), read(path)
    chance = random.Random(damage.__name__)
    told = []
    for _ in range(25):
        damaged = bytearray(content)
        damage(damaged, chance)
        path.write_bytes(damaged)
        try:
            assert read(path) == whole
        except InputError as error:
            told.append(str(error))
    assert len(told) >= 20
    assert all(line.startswith(f"{path}: ") for line in told)
    assert all("find -L .dvc/cache -samefile" in line or "of its format" in line for line in told)


@pytest.mark.parametrize("start", [0, 5, 64, 250, 299])
def test_only_what_is_read_is_checked_and_told_by_its_rows(tmp_path, monkeypatch, start):
    monkeypatch.setattr(hdf5, "_BLOCK", 64 * 4 * 64)
    path = tmp_path / "index.h5"
    write_features(path)
    content = bytearray(path.read_bytes())
    at = content.index(VECTORS[start].tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    first = start // 64 * 64
    with features.opened(path) as store:
        np.testing.assert_array_equal(store.features[:first], VECTORS[:first])
        np.testing.assert_array_equal(store.features[first + 64 :], VECTORS[first + 64 :])
        for part in (np.s_[:], np.s_[start : start + 1], np.s_[first : first + 1]):
            with pytest.raises(
                InputError, match=f"rows {first} to {min(first + 63, 299)} are damaged; to make"
            ):
                store.features[part]


def claim(path, name, shape):
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset(name, shape, np.float32)


def seal(path):
    """Give a file the line of one that is whole."""
    with path.open("r+b") as disk:
        total = hdf5._sum_of_others(disk, [])
        disk.seek(0)
        line = f'{{"format": "{features.KIND}", "version": {hdf5.VERSION}, "rows": [], "xxh3": "{total}"}}'
        disk.write(line.ljust(511).encode() + b"\n")


def without(name):
    def make(path):
        write_features(path)
        with h5py.File(path, "r+") as file:
            del (file.attrs if name in file.attrs else file)[name]
        seal(path)

    return make


def linked(path):
    write_features(path.with_name("other.h5"))
    with h5py.File(path, "w", userblock_size=512) as file:
        file["features"] = h5py.ExternalLink("other.h5", "features")
        write_photos(file, "", PHOTOS)
    seal(path)


def stored_elsewhere(path):
    path.with_name("passwd").write_bytes(bytes(300 * 64 * 4))
    with h5py.File(path, "w", userblock_size=512) as file:
        elsewhere = [(str(path.with_name("passwd")), 0, 300 * 64 * 4)]
        file.create_dataset("features", (300, 64), np.float32, external=elsewhere)
        write_photos(file, "", PHOTOS)
    seal(path)


def claimed(shape):
    def make(path):
        claim(path, "features", shape)
        seal(path)

    return make


def of_type(dtype):
    def make(path):
        with hdf5.writing(path, features.KIND) as file:
            file.rows("features", VECTORS.shape, dtype).append(VECTORS)
            write_photos(file.file, "", PHOTOS)
            file.file.attrs.update(ATTRIBUTES)

    return make


def named(*names):
    photos = [Photo(name, "castle") for name in names]
    return lambda path: write_features(path, VECTORS[:2], photos)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda path: write_features(path, VECTORS[:10], PHOTOS[:30]),
            r"image_path is object \(30,\), expected",
        ),
        (of_type(np.int32), r"features is int32 \(300, 64\), expected float32"),
        (of_type(np.float64), "features is float64"),
        (claimed((10**9, 64)), "features has 0 of its 256000000000 bytes"),
        (claimed((10**11, 1)), "features has 0 of its 400000000000 bytes"),
        (claimed((4,)), r"features is float32 \(4,\), expected float32 \(None, None\)"),
        (without("model_sha256"), "model_sha256"),
        (without("class_image"), "class_image is missing"),
        (without("features_xxh3"), "features_xxh3"),
        (linked, "features is a link to elsewhere"),
        (stored_elsewhere, "features is not stored in this file"),
        (named("a.jpg", "../../etc/passwd"), "'../../etc/passwd' is no path in the repository"),
        (named("/etc/passwd", "a.jpg"), "'/etc/passwd' is no path in the repository"),
        (named("", "a.jpg"), "'' is no path in the repository"),
        (named("a.jpg", "a.jpg"), "a photo is there twice"),
    ],
)
def test_a_store_that_keeps_no_promise_is_refused_at_once(tmp_path, make, said):
    path = tmp_path / "index.h5"
    make(path)
    with pytest.raises(InputError, match=f"^{path}: not a feature store .*{said}"), features.opened(path):
        pytest.fail("it opens")


@pytest.mark.parametrize(
    ("rows", "distances"),
    [([[0, 30]], [[0, 1]]), ([[-5, 1]], [[0, 1]]), ([[10**9, 1]], [[0, 1]]), ([[0, 1]], [[0, np.nan]])],
)
def test_rankings_of_what_is_not_in_the_index_are_refused(tmp_path, rows, distances):
    path = tmp_path / "rankings.h5"
    block = rankings.Block(np.array(rows, np.int32), np.array(distances, np.float32))
    rankings.write(path, PHOTOS[:1], PHOTOS[:30], 2, [block], {})
    with (
        rankings.opened(path) as store,
        pytest.raises(InputError, match="has results that are no rows of the index"),
    ):
        list(store.blocks())


@pytest.mark.skipif(sys.platform == "win32", reason="names of paths have other separators")
def test_the_command_that_heals_is_quoted(tmp_path):
    path = tmp_path / "it's mine.h5"
    write_features(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError) as caught, features.opened(path):
        pytest.fail("it opens")
    assert f"""rm -f '{tmp_path}/it'"'"'s mine.h5'; dvc repro""" in str(caught.value)
