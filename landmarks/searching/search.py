"""Exact search for the nearest rows."""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock, local
from typing import TypeAlias, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from landmarks import hdf5
from landmarks.cores import CORES
from landmarks.errors import InputError
from landmarks.params import Distance
from landmarks.searching import _kernels

MEMORY = 256 << 20
PIECE = 1 << 10
"""Rows for a thread to read and compare at a time, at most."""
_CACHED = 1 << 20
"""Bytes of the distances of a piece, so that they are still in cache when they are looked through."""

Rows: TypeAlias = NDArray[np.float32] | hdf5.Rows | h5py.Dataset
"""Float32 (N, D), in memory or in a file, which is then read in pieces."""


def top_k(
    queries: NDArray[np.float32],
    index: Rows,
    distance: str,
    k: int,
    zeros_last: bool = False,
    memory: int = MEMORY,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` rows of `index` nearest to each query, nearest first; of equal distances, the lower row first.

    `queries`: float32 (Q, D), `k` 1 or more. `distance`: `L1` Manhattan, `L2` Euclidean, `L3` cosine distance
    1 - cos (1 to a zero vector). `zeros_last`: a zero vector describes nothing, so it is infinitely far
    from all others. Returns distances float32 and rows int64, (Q, min(k, N)).

    All distances are sums over direct differences (for L3 those of unit vectors, since 1 - cos is half of
    their squared distance), so near-duplicates are not ranked by the rounding of |x|² - 2xy + |y|². An
    `index` that is not an array is never held whole: each thread reads a piece while others search theirs.
    The pieces and their distances take at most `memory` bytes, if that holds one row, besides the Q * k
    results. Raises `InputError` where queries and index are no numbers, or have not as many columns.

    >>> index = np.array([[0, 0], [3, 4], [1, 0]], np.float32)
    >>> top_k(np.array([[1, 1]], np.float32), index, "L1", 2)
    (array([[1., 2.]], dtype=float32), array([[2, 0]]))
    """
    size, dimensions = _checked(queries, index, distance, k)
    k = min(k, size)
    queries = np.ascontiguousarray(queries, np.float32)
    blank = ~queries.any(axis=1)
    if distance == "L3":
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
        queries = (queries / np.where(lengths, lengths, 1)).astype(np.float32)
    in_file = not isinstance(index, np.ndarray)
    # One more than the cores, which all have work while one waits for the disk.
    threads = CORES + in_file
    piece = max(1, _CACHED // (4 * max(1, len(queries)) * _kernels.CHUNK)) * _kernels.CHUNK
    piece = min(PIECE, piece, _share(size, 4))
    if in_file:
        piece = max(1, min(piece, memory // (threads * 4 * (dimensions + len(queries)))))
        if isinstance(index, hdf5.Rows):  # whole blocks, for of a part the checksum says nothing
            piece = max(1, piece // index.each) * index.each if piece >= index.each else piece
    nearest = np.full((len(queries), k), np.iinfo(np.uint64).max)
    keep = _kernels.keep_all if k == size else _kernels.keep_nearest
    some = _share(len(queries), 1)
    parts = [(slice(first, first + some), Lock()) for first in range(0, len(queries), some)]
    scratch = local()

    def search(start: int) -> None:
        stop = min(start + piece, size)
        if not hasattr(scratch, "found"):
            scratch.found = np.empty(len(queries) * piece, np.float32)
            scratch.rows = np.empty((piece if in_file else 0, dimensions), np.float32)
        if isinstance(index, np.ndarray):
            rows = np.ascontiguousarray(index[start:stop], np.float32)
        else:
            rows = scratch.rows[: stop - start]
            index.read_direct(rows, np.s_[start:stop])
        found = scratch.found[: len(queries) * len(rows)].reshape(len(queries), len(rows))
        _kernels.distances(queries, rows, distance, found)
        if distance == "L3":
            found[blank] = 1
        if zeros_last:
            found[blank] = np.inf
            found[:, ~rows.any(axis=1)] = np.inf
        for part, lock in parts:
            with lock:
                keep(found[part], start, nearest[part])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(search, range(0, size, piece)))
        list(pool.map(lambda part: nearest[part[0]].sort(axis=1), parts))
    bits = np.empty(nearest.shape, np.uint32)  # in place, for these may be most of the memory
    np.right_shift(nearest, np.uint64(32), out=bits, casting="unsafe")
    nearest &= np.uint64(0xFFFFFFFF)
    return bits.view(np.float32), nearest.view(np.int64)


def _checked(queries: NDArray[np.float32], index: Rows, distance: str, k: int) -> tuple[int, int]:
    """N and D, where the kernels, which check nothing, may be given these."""
    seen = f"the queries are {queries.dtype} {queries.shape}, the index is {index.dtype} {index.shape}"
    if any(rows.dtype.kind not in "fiu" for rows in (queries, index)):
        raise InputError(f"search: {seen}; allowed are real numbers, as float32 (N, D)")
    if queries.ndim != 2 or len(index.shape) != 2 or queries.shape[1] != index.shape[1]:
        raise InputError(f"search: {seen}; they need as many columns: describe both by one model")
    size, dimensions = index.shape
    if not dimensions or not 0 < size < 1 << 32:
        raise InputError(f"search: {seen}; needed are a column, and 1 to {(1 << 32) - 1} rows in the index")
    if distance not in get_args(Distance):
        raise InputError(f"distance: {distance!r} is not {', '.join(get_args(Distance))}")
    if k < 1:
        raise InputError(f"search: k is {k}, it must be 1 or more")
    return size, dimensions


def _share(count: int, multiple: int) -> int:
    """The size, in steps of `multiple`, of shares of `count` things: two per thread, so all stay busy."""
    return max(1, -(-count // (2 * CORES * multiple))) * multiple
