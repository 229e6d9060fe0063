import re
from functools import partial
from unittest import mock

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.searching import rankings, search
from landmarks.searching.features import Store

INF = np.inf


def store(vectors, paths, sha256="12ab"):
    photos = [Photo(path, "class") for path in paths]
    return Store(np.array(vectors, np.float32), photos, {"model_sha256": sha256})


def retrieved(queries, index, distance="L1", depth=None, memory=1 << 20):
    rows, distances = zip(*rankings.retrieve(queries, index, distance, depth, memory), strict=True)
    return np.concatenate(rows), np.concatenate(distances)


index = store([[0], [1], [2], [4]], ["a", "b", "c", "d"])


@pytest.mark.parametrize("depth", [None, 9, 4, 3, 2, 1])
def test_a_querys_own_photo_is_left_out_and_a_short_ranking_is_padded(depth):
    rows, distances = retrieved(store([[1], [2]], ["b", "elsewhere"]), index, depth=depth)
    assert (rows.dtype, distances.dtype) == (np.int32, np.float32)
    length = min(depth or 4, 4)
    assert rows.tolist() == [[0, 2, 3, -1][:length], [2, 1, 0, 3][:length]]
    assert distances.tolist() == [[1, 1, 3, INF][:length], [0, 1, 2, 2][:length]]


def test_a_querys_own_photo_may_be_kept():
    [block] = rankings.retrieve(store([[1], [2]], ["b", "elsewhere"]), index, "L1", 3, 1 << 20, keep_own=True)
    assert block.rows.tolist() == [[1, 0, 2], [2, 1, 0]]


def test_an_equal_photo_under_another_path_counts():
    rows, distances = retrieved(store([[1]], ["copy of b"]), index, depth=1)
    assert (rows.tolist(), distances.tolist()) == ([[1]], [[0]])


def test_the_only_photo_being_the_query_leaves_an_empty_ranking():
    rows, distances = retrieved(store([[1]], ["b"]), store([[1]], ["b"]))
    assert (rows.tolist(), distances.tolist()) == ([[-1]], [[INF]])


@st.composite
def searches(draw):
    paths = st.sampled_from("abcdefgh")
    numbers = st.integers(-3, 3)
    index_paths = draw(st.lists(paths, min_size=1, max_size=8, unique=True))
    query_paths = draw(st.lists(paths, min_size=1, max_size=7, unique=True))
    vectors = [[[draw(numbers), draw(numbers)] for _ in part] for part in (query_paths, index_paths)]
    return (
        store(vectors[0], query_paths),
        store(vectors[1], index_paths),
        draw(st.none() | st.integers(1, 10)),
        draw(st.integers(1, 8)),
    )


@settings(deadline=None, max_examples=150)
@given(searches())
def test_rankings_are_what_sorting_by_distance_and_row_gives(search):
    queries, index, depth, at_once = search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "QUERIES_AT_ONCE", at_once)
        rows, distances = retrieved(queries, index, "L1", depth)

    length = min(depth or 100, len(index.photos))
    assert rankings.ranking_depth(len(index.photos), depth) == length
    assert rows.shape == distances.shape == (len(queries.photos), length)
    for place, query in enumerate(queries.photos):
        [[x, y]] = queries.features[place : place + 1]
        expected = sorted(
            (abs(x - vector[0]) + abs(y - vector[1]), row)
            for row, (photo, vector) in enumerate(zip(index.photos, index.features, strict=True))
            if photo.image_path != query.image_path
        )
        expected += [(INF, -1)] * length
        assert list(zip(distances[place], rows[place], strict=True)) == expected[:length]
        assert (np.diff(distances[place][rows[place] >= 0]) >= 0).all()


@pytest.mark.parametrize("distance", ["L1", "L2", "L3"])
def test_queries_a_few_at_a_time_give_the_same(distance):
    rng = np.random.default_rng(0)
    queries = store(rng.normal(size=(11, 5)), [f"q{number}" for number in range(10)] + ["i3"])
    index = store(rng.normal(size=(20, 5)), [f"i{number}" for number in range(20)])
    whole = retrieved(queries, index, distance, 6)
    for at_once in (1, 3, 11):
        memory = at_once * 2 * rankings.bytes_a_query(5, 6)
        blocks = [len(block.rows) for block in rankings.retrieve(queries, index, distance, 6, memory)]
        assert max(blocks) == at_once
        for found, expected in zip(retrieved(queries, index, distance, 6, memory), whole, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_stores_of_different_models_are_refused():
    with pytest.raises(InputError, match=r"different models .*12ab.* and 34cd"):
        retrieved(store([[1]], ["q"], "12ab" * 16), store([[1]], ["i"], "34cd" * 16))


PHOTOS = [Photo("photos/故宫.jpg", "故宫"), Photo("photos/a b,c.jpg", "001"), Photo("q", 'N"A')]


def write(path, blocks, **kwargs):
    rankings.write(path, PHOTOS, PHOTOS[:2], 2, blocks, {"distance": "L1"}, **kwargs)


def blocks_of(rows, size=1):
    rows = np.array(rows, np.int32)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield rankings.Block(part, np.where(part < 0, INF, part / 8).astype(np.float32))


ROWS = [[0, 1], [1, -1], [1, 0]]


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_a_store_holds_what_was_written(tmp_path, monkeypatch, at_once):
    path = tmp_path / "new" / "rankings.h5"
    predicted = []

    def voting():
        for block in blocks_of(ROWS):
            predicted.append(["故宫", "", "001"][len(predicted)])
            yield block

    write(path, voting(), predicted=predicted)
    monkeypatch.setattr(rankings, "QUERIES_AT_ONCE", at_once)
    with rankings.opened(path) as ranked:
        assert (ranked.rows.dtype, ranked.distances.dtype) == (np.int32, np.float32)
        assert ranked.queries == PHOTOS
        assert ranked.index == PHOTOS[:2]
        assert ranked.predicted == ["故宫", "", "001"]
        assert ranked.attributes == {"distance": "L1"}
        parts, blocks = zip(*ranked.blocks(), strict=True)
        assert [photo for part in parts for photo in ranked.queries[part]] == PHOTOS
        assert max(len(block.rows) for block in blocks) == min(at_once, 3)
        assert np.concatenate([block.rows for block in blocks]).tolist() == ROWS
        expected = [[0, 1 / 8], [1 / 8, INF], [1 / 8, 0]]
        assert np.concatenate([block.distances for block in blocks]).tolist() == expected
    with h5py.File(path) as file:
        names = {"query_image_path", "query_class_image", "index_image_path", "index_class_image"}
        assert names < set(file)
        assert file["query_image_path"][0].decode() == "photos/故宫.jpg"


def test_the_bytes_do_not_depend_on_the_blocks(tmp_path):
    for size in (1, 2, 3):
        write(tmp_path / f"{size}.h5", blocks_of(ROWS, size))
    contents = {(tmp_path / f"{size}.h5").read_bytes() for size in (1, 2, 3)}
    assert len(contents) == 1


def test_a_store_that_was_not_finished_keeps_the_old_one(tmp_path):
    path = tmp_path / "rankings.h5"
    write(path, blocks_of(ROWS))
    before = path.read_bytes()

    def broken():
        yield next(blocks_of(ROWS))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"text", "damaged, or no file of landmarks rankings"),
        ({}, "of version 1 of its format, 2 is read"),
    ],
)
def test_what_is_no_store_of_rankings_is_refused(tmp_path, content, message):
    path = tmp_path / "rankings.h5"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        h5py.File(path, "w").close()
    with pytest.raises(InputError, match=rf"rankings\.h5: {message}"), rankings.opened(path):
        pass


@pytest.mark.parametrize(
    ("queries", "depth", "free", "told"),
    [
        (
            500,
            300_000,
            10**9,
            "500 queries with 300000 results each take 1.2 GB, 1 GB of the disk are free; lower",
        ),
        (500, 300_000, 10**10, "500 queries with 300000 results each take 1.2 GB of the disk; a lower"),
        (2_000_000, 100, 10**10, "2000000 queries with 100 results each take 1.6 GB of the disk; a lower"),
        (500, 1000, 10**6, "500 queries with 1000 results each take 0.004 GB, 0.001 GB of the disk are free"),
        (500, 1000, 10**7, None),
        (60, 30, 10**9, None),
    ],
)
def test_a_store_that_will_be_large_is_told_and_one_too_large_for_the_disk_refused(
    tmp_path, monkeypatch, caplog, queries, depth, free, told
):
    path = tmp_path / "rankings" / "retrieved.h5"
    caplog.set_level("INFO")
    monkeypatch.setattr(rankings.shutil, "disk_usage", {path.parent: mock.Mock(free=free)}.__getitem__)
    if free < 8 * queries * depth:
        with pytest.raises(InputError, match=re.escape(f"{path}: {told}") + ".*retrieve.depth"):
            rankings.check_room(path, queries, depth)
        return
    rankings.check_room(path, queries, depth)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ([f"{path}: {told} retrieve.depth keeps fewer"] if told else [])


def test_a_store_has_the_size_that_is_told(tmp_path):
    index = store(np.random.default_rng(0).random((3000, 2)), [f"i{row}" for row in range(3000)])
    path = tmp_path / "rankings.h5"
    blocks = rankings.retrieve(store([[0, 0]] * 40, "q" * 40), index, "L1", None, 1 << 20)
    rankings.write(path, index.photos[:40], [], 3000, blocks, {})
    assert path.stat().st_size == pytest.approx(8 * 40 * 3000, rel=0.03)


@pytest.mark.parametrize(
    ("size", "depth", "needed"), [(40_000, None, 3), (60_000, 50_000, 4), (40_000, 99, 0)]
)
def test_a_ranking_that_is_more_than_the_memory_is_told_before_the_search(caplog, size, depth, needed):
    index = Store(np.zeros((size, 2), np.float32), [Photo("a", "b")] * size, {"model_sha256": ""})
    queries = index._replace(features=index.features[:1], photos=index.photos[:1])
    next(rankings.retrieve(queries, index, "L1", depth, 1 << 20))
    told = (
        "retrieve.memory: 1 MB are not kept to, since a query with its results takes more; "
        f"set it to {needed}, or lower retrieve.depth"
    )
    assert [record.getMessage() for record in caplog.records] == [told] * (needed > 0)


@pytest.mark.parametrize(
    ("each", "memory", "most", "together"),
    [
        (10, 99, 64, 9),
        (10, 100, 64, 10),
        (10, 101, 64, 10),
        (99, 100, 64, 1),
        (101, 100, 64, 1),
        (1, 100, 64, 64),
    ],
)
def test_as_many_queries_are_taken_at_a_time_as_fit_but_one_in_any_case(each, memory, most, together):
    assert rankings.at_once(each, memory, most) == together


def test_photos_that_are_known_are_not_held_twice(tmp_path):
    path = tmp_path / "rankings.h5"
    write(path, blocks_of(ROWS))
    for known in ([PHOTOS, PHOTOS[:2]], [PHOTOS[:2], PHOTOS]):
        with rankings.opened(path, *known) as ranked:
            assert ranked.queries is PHOTOS
            assert any(ranked.index is photos for photos in known)
    with rankings.opened(path, PHOTOS[1:], []) as ranked:
        assert (ranked.queries, ranked.index) == (PHOTOS, PHOTOS[:2])


@pytest.mark.parametrize("depth", [10, None])
@pytest.mark.parametrize(("queries", "index"), [(400, 2_500), (40, 6_000), (64, 4_000)])
def test_memory_grows_neither_with_the_queries_nor_with_the_index(
    tmp_path, monkeypatch, peak_memory, queries, index, depth
):
    width, memory = 256, 1 << 20
    monkeypatch.setattr(search, "CORES", 2)
    # Of a photo, its row by its path, and its name while it is written.
    bound = memory + 200 * (queries + index)
    length = rankings.ranking_depth(index, depth)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        stores = []
        for prefix, size in (("q", queries), ("i", index)):
            data = file.create_dataset(
                prefix, data=np.random.default_rng(size).random((size, width), np.float32)
            )
            photos = [Photo(f"{prefix}{row}", "class") for row in range(size)]
            stores.append(Store(data, photos, {"model_sha256": ""}))

        def search_and_write():
            blocks = rankings.retrieve(*stores, "L1", depth, memory)
            rankings.write(tmp_path / "out.h5", stores[0].photos, stores[1].photos, length, blocks, {})

        assert peak_memory(search_and_write, bound) <= bound
    assert bound < 4 * width * (queries + index) + 8 * queries * length


@pytest.mark.parametrize(("queries", "width"), [(1, 512), (8, 1024), (2, 300)])
def test_of_an_index_in_a_file_half_of_the_memory_is_read_at_a_time(
    tmp_path, monkeypatch, peak_memory, queries, width
):
    """The other half is for the queries."""
    memory = 1 << 20
    monkeypatch.setattr(search, "CORES", 2)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        data = np.random.default_rng(width).random((1500, width), np.float32)
        rows = file.create_dataset("rows", data=data)
        asked, own = rows[:queries] + 1, np.full(queries, rankings.NO_ROW)
        bound = memory // 2 + queries * rankings.bytes_a_query(width, 10) + 100_000
        call = partial(rankings.nearest, asked, own, rows, "L1", 10, False, memory)
        assert peak_memory(call, bound) <= bound
