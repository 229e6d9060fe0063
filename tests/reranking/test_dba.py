import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from landmarks.errors import InputError
from landmarks.reranking import dba

FULL = Path("/dev/full")
METRICS = {"L1": "manhattan", "L2": "euclidean", "L3": "cosine"}


@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize("neighbours", [1, 4, 30])
def test_every_row_is_averaged_with_those_that_scikit_learn_finds_nearest(
    monkeypatch, tmp_path, distance, neighbours
):
    monkeypatch.setattr("landmarks.reranking._neighbours.ROWS_AT_ONCE", 7)
    index = np.random.default_rng(0).random((20, 5)).astype(np.float32)
    count = min(neighbours, len(index) - 1)
    near = NearestNeighbors(n_neighbors=count, metric=METRICS[distance]).fit(index).kneighbors()[1]
    lengths = np.linalg.norm(index, axis=1)
    expected = []
    for row, others in enumerate(near):
        weights = (index[others] @ index[row] / lengths[others] / lengths[row]) ** 3
        total = index[row] + weights @ index[others]
        expected.append(total / (1 + weights.sum()))

    with h5py.File(tmp_path / "index.h5", "w") as file:
        stored = file.create_dataset("features", data=index)
        found = dba.augmented(stored, distance, neighbours, 3, None, False)
        np.testing.assert_allclose(found[:], expected, rtol=1e-5)
        assert (found.shape, found[3:5].dtype) == (index.shape, np.float32)


@pytest.mark.parametrize("memory", [1 << 19, 1 << 20])
def test_the_search_keeps_to_its_memory_which_changes_no_bit(tmp_path, peak_memory, memory):
    index = np.random.default_rng(0).random((100, 512)).astype(np.float32)
    bound = memory + 200_000  # of a temporary file, threads and a progress bar
    with h5py.File(tmp_path / "index.h5", "w") as file:
        stored = file.create_dataset("features", data=index)
        found = []
        for given, limit in ((memory, bound), (1 << 28, sys.maxsize)):
            peak = peak_memory(
                lambda given=given: found.append(dba.augmented(stored, "L2", 9, 3, 2, False, given)), limit
            )
            assert (peak <= bound) == (given == memory)
        np.testing.assert_array_equal(found[0], found[-1])


def test_a_row_is_not_its_own_neighbour_though_copies_of_it_stand_before():
    index = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    found = dba.augmented(index, "L1", 1, 0, 1, False)[:]
    np.testing.assert_allclose(found, [[1, 0], [1, 0], [1, 0], [0.5, 0.5]])


def test_an_index_of_one_photo_stays_as_it_is():
    index = np.array([[0.25, 0.75]], np.float32)
    np.testing.assert_array_equal(dba.augmented(index, "L2", 5, 3, 1, False)[:], index)


def test_a_photo_without_keypoints_neither_gives_nor_takes():
    index = np.array([[0, 0], [1, 0], [0.8, 0.6]], np.float32)
    found = dba.augmented(index, "L2", 2, 0, 2, zeros_last=True)[:]
    middle = np.array([1.8, 0.6]) / np.hypot(1.8, 0.6)
    np.testing.assert_allclose(found, [[0, 0], middle, middle], rtol=1e-6)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_said_plainly(monkeypatch):
    monkeypatch.setattr(dba.tempfile, "TemporaryFile", lambda: FULL.open("wb", buffering=0))
    with pytest.raises(InputError, match="the disk is full"):
        dba.augmented(np.ones((4, 2), np.float32), "L1", 1, 0, None, False)
