from itertools import product
from time import sleep

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from landmarks.errors import InputError
from landmarks.searching import _kernels, search

METRICS = {"L1": "cityblock", "L2": "euclidean", "L3": "cosine"}
distances_by_name = pytest.mark.parametrize("distance", METRICS)

dimensions = st.shared(st.integers(1, 6), key="dimensions")


def rows_of(elements, most):
    shape = st.tuples(st.integers(1, most), dimensions)
    return arrays(np.float32, shape, elements=elements)


small_integers = st.integers(-2, 2).map(float)
numbers = st.floats(-100, 100, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)


def brute_force(queries, index, distance):
    found = cdist(queries.astype(np.float64), index.astype(np.float64), METRICS[distance])
    if distance == "L3":
        found[(~queries.any(axis=1))[:, None] | (~index.any(axis=1))[None]] = 1
    return found


@distances_by_name
@settings(deadline=None, max_examples=60)
@given(queries=rows_of(numbers, 5), index=rows_of(numbers, 12), k=st.integers(1, 15))
def test_top_k_is_what_scipy_finds_in_float64(distance, queries, index, k):
    expected = brute_force(queries, index, distance)

    distances, rows = search.top_k(queries, index, distance, k)

    assert (distances.dtype, rows.dtype) == (np.float32, np.int64)
    assert distances.shape == rows.shape == (len(queries), min(k, len(index)))
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(distances, np.sort(expected)[:, :k], **tolerance)
    np.testing.assert_allclose(distances, np.take_along_axis(expected, rows, 1), **tolerance)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


@pytest.mark.parametrize("distance", ["L1", "L2"])
@settings(deadline=None, max_examples=60)
@given(queries=rows_of(small_integers, 4), index=rows_of(small_integers, 20), k=st.integers(1, 20))
def test_equal_distances_come_by_the_lower_row(distance, queries, index, k):
    power = {"L1": 1, "L2": 2}[distance]
    distances, rows = search.top_k(queries, index, distance, k)
    for query, found, reported in zip(queries.tolist(), rows.tolist(), distances, strict=True):
        # Sums of small integers are exact, so ties are too.
        sums = [sum(abs(a - b) ** power for a, b in zip(query, row, strict=True)) for row in index.tolist()]
        assert found == sorted(range(len(sums)), key=lambda row, sums=sums: (sums[row], row))[:k]
        np.testing.assert_allclose(reported, np.array([sums[row] for row in found]) ** (1 / power), rtol=1e-6)


@distances_by_name
@pytest.mark.parametrize("piece", [1, 7, 2048])
def test_copies_of_a_row_come_in_row_order_also_across_pieces(distance, piece, monkeypatch):
    monkeypatch.setattr(search, "PIECE", piece)
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(3, 7)).astype(np.float32)
    copies = rng.integers(0, 3, 40)
    _, rows = search.top_k(originals, originals[copies], distance, 25)
    for original, found in enumerate(rows):
        own = np.flatnonzero(copies == original)
        assert found[: len(own)].tolist() == own.tolist()
        for other in set(range(3)) - {original}:
            kept = [row for row in found if copies[row] == other]
            assert kept == np.flatnonzero(copies == other)[: len(kept)].tolist()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_cut_inside_a_tie_keeps_the_lowest_rows(k):
    index = np.array([[5], [1], [-1], [1]], np.float32)
    _, rows = search.top_k(np.zeros((1, 1), np.float32), index, "L1", k)
    assert rows.tolist() == [[1, 2, 3][:k]]


def test_distances_worked_by_hand():
    query = np.array([[3, 4]], np.float32)
    index = np.array([[3, 4], [6, 8], [0, 0], [-4, 3], [-3, -4]], np.float32)
    by_hand = {
        "L1": ([0, 1, 2, 3, 4], [0, 7, 7, 8, 14]),
        "L2": ([0, 1, 2, 3, 4], [0, 5, 5, 50**0.5, 10]),
        "L3": ([0, 1, 2, 3, 4], [0, 0, 1, 1, 2]),
    }
    for distance, (rows, distances) in by_hand.items():
        found, found_rows = search.top_k(query, index, distance, 5)
        assert found_rows.tolist() == [rows], distance
        np.testing.assert_allclose(found, [distances], atol=1e-6)


def test_cosine_to_a_zero_vector_is_one():
    vectors = np.array([[0, 0], [1, 0], [-1, 0]], np.float32)
    distances, rows = search.top_k(vectors, vectors, "L3", 3)
    assert distances.tolist() == [[1, 1, 1], [0, 1, 2], [0, 1, 2]]
    assert rows.tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]


def test_cosine_is_never_negative():
    rows = np.random.default_rng(0).normal(size=(300, 33)).astype(np.float32)
    distances, _ = search.top_k(rows, rows, "L3", 1)
    assert (distances >= 0).all()
    assert distances.max() < 1e-6


@distances_by_name
def test_pieces_of_any_size_and_blocks_of_an_hdf5_dataset_give_the_same(tmp_path, distance, monkeypatch):
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(9, 5)).astype(np.float32)
    index = rng.normal(size=(101, 5)).astype(np.float32)
    index[::7] = index[3]
    whole = search.top_k(queries, index, distance, 10)
    with h5py.File(tmp_path / "index.h5", "w") as file:
        dataset = file.create_dataset("features", data=index, chunks=(8, 5))
        for rows, source in product((1, 2, 10, 37, 100, 101), (index, dataset)):
            for piece in (rows, 2048):
                monkeypatch.setattr(search, "PIECE", piece)
                got = search.top_k(queries, source, distance, 10, memory=rows * 2 * 4 * 5)
                for found, expected in zip(got, whole, strict=True):
                    np.testing.assert_array_equal(found, expected)


@distances_by_name
@pytest.mark.parametrize("memory", [1 << 20, 1 << 19])
def test_memory_does_not_grow_with_the_index(tmp_path, distance, monkeypatch, peak_memory, memory):
    queries, size = np.ones((4, 64), np.float32), 20_000
    monkeypatch.setattr(search, "CORES", 2)
    with h5py.File(tmp_path / "index.h5", "w") as file:
        index = file.create_dataset("features", (size, 64), np.float32, chunks=(512, 64))
        index[:] = np.random.default_rng(0).random((size, 64), dtype=np.float32)
        # Beside pieces and their distances there are a future for each, and what h5py opens.
        bound = memory + 200_000
        peak = peak_memory(lambda: search.top_k(queries, index, distance, 10, memory=memory), bound)
        assert peak <= bound < size * 64 * 4


@distances_by_name
def test_what_threads_find_at_the_same_time_is_all_kept(distance, monkeypatch):
    rng = np.random.default_rng(0)
    queries, index = rng.random((5, 8), np.float32), rng.random((400, 8), np.float32)
    expected = search.top_k(queries, index, distance, 9)
    keep = _kernels.keep_nearest

    def keep_slowly(found, first, nearest):
        before = nearest.copy()
        sleep(0.001)
        keep(found, first, before)
        nearest[:] = before

    monkeypatch.setattr(_kernels, "keep_nearest", keep_slowly)
    monkeypatch.setattr(search, "CORES", 4)
    monkeypatch.setattr(search, "PIECE", 16)
    np.testing.assert_array_equal(search.top_k(queries, index, distance, 9), expected)


@distances_by_name
@pytest.mark.parametrize("dimensions", [1, 63, 1024, 1025, 5000])
def test_long_vectors_keep_six_digits(distance, dimensions):
    rng = np.random.default_rng(dimensions)
    queries, index = (rng.random((size, dimensions), np.float32) for size in (7, 201))
    distances, rows = search.top_k(queries, index, distance, 201)
    expected = np.take_along_axis(brute_force(queries, index, distance), rows, 1)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-6 if distance == "L3" else 0)


@pytest.mark.parametrize("distance", ["L2", "L3"])
def test_near_duplicates_are_not_ranked_by_cancellation(distance):
    """|x|² - 2xy + |y|², or 1 - cos, in float32 would give 0 or noise for all of these."""
    query = np.full(1000, 10, np.float32)
    index = np.repeat(query[None], 50, axis=0)
    order = np.random.default_rng(0).permutation(50)
    index[np.arange(50), np.arange(50)] += (order + 1) * np.float32(1e-4)
    _, rows = search.top_k(query[None], index, distance, 50)
    assert order[rows[0]].tolist() == list(range(50))


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "in a file"])
@pytest.mark.parametrize(
    ("queries", "index", "said"),
    [
        (
            zeros(2, 1280),
            zeros(9, 100),
            "float32 (2, 1280), the index is float32 (9, 100); they need",
        ),
        (
            zeros(2, 100),
            zeros(9, 1280),
            "float32 (2, 100), the index is float32 (9, 1280); they need",
        ),
        (zeros(2, 5), zeros(9, 4), "they need as many columns"),
        (zeros(4), zeros(9, 4), "float32 (4,), the index is float32 (9, 4); they need as many columns"),
        (zeros(2, 3, 4), zeros(9, 4), "they need as many columns"),
        (zeros(2, 4), zeros(9), "they need as many columns"),
        (zeros(2, 4), zeros(9, 4, 4), "they need as many columns"),
        (zeros(2, 4), zeros(0, 4), "needed are a column, and 1 to 4294967295 rows in the index"),
        (zeros(2, 0), zeros(9, 0), "needed are a column"),
        (zeros(2, 4, dtype=complex), zeros(9, 4), "allowed are real numbers"),
        (zeros(2, 4), zeros(9, 4, dtype="S5"), "allowed are real numbers"),
        (zeros(2, 4), zeros(9, 4, dtype=bool), "allowed are real numbers"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else f"{value.dtype} {value.shape}",
)
def test_arrays_that_no_kernel_may_see_are_refused_by_shape_and_type(tmp_path, stored, queries, index, said):
    with h5py.File(tmp_path / "index.h5", "w") as file, pytest.raises(InputError) as caught:
        search.top_k(queries, file.create_dataset("index", data=index) if stored else index, "L1", 3)
    assert said in str(caught.value)


def test_more_rows_than_a_key_has_room_for_are_refused():
    index = np.broadcast_to(np.zeros(1, np.float32), (1 << 32, 1))
    with pytest.raises(InputError, match="4294967295 rows"):
        search.top_k(zeros(1, 1), index, "L1", 1)


@pytest.mark.parametrize(
    ("distance", "k", "said"), [("L5", 1, "'L5' is not L1, L2, L3"), ("L1", 0, "k is 0")]
)
def test_a_distance_and_a_number_that_mean_nothing_are_refused(distance, k, said):
    with pytest.raises(InputError, match=said):
        search.top_k(zeros(1, 1), zeros(3, 1), distance, k)


@distances_by_name
def test_arrays_of_any_layout_and_of_other_numbers_are_searched_as_their_copies(distance):
    rng = np.random.default_rng(3)
    wide = rng.integers(-9, 9, (60, 24))
    queries, index = wide[:5, ::2], wide[::-1, ::2]
    expected = search.top_k(np.float32(queries), np.float32(index), distance, 7)
    for dtype in (np.float64, np.int16, np.float16):
        for layout in (np.asarray, np.asfortranarray):
            found = search.top_k(layout(queries.astype(dtype)), layout(index.astype(dtype)), distance, 7)
            np.testing.assert_array_equal(found, expected)


def test_no_queries_have_no_results():
    distances, rows = search.top_k(zeros(0, 4), zeros(9, 4), "L2", 3)
    assert distances.shape == rows.shape == (0, 3)
