"""Exact search for the nearest rows."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from landmarks import kernels

MEMORY = 256 << 20
THREADS = len(os.sched_getaffinity(0))
BLOCK = 1 << 13
"""Rows at a time, where memory permits: their distances are still in cache when they are looked through."""


Rows: TypeAlias = NDArray[np.float32] | h5py.Dataset
"""Float32 (N, D), in memory or in a file, which is then read in blocks."""


def top_k(
    queries: NDArray[np.float32],
    index: Rows,
    distance: str,
    k: int,
    zeros_last: bool = False,
    memory: int = MEMORY,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` rows of `index` nearest to each query, nearest first, equal distances by the lower row.

    `queries`: float32 (Q, D). `distance`: `L1` Manhattan, `L2` Euclidean, `L3` cosine distance
    1 - cos (1 to a zero vector). `zeros_last`: a zero vector describes nothing, so it is infinitely far
    from all others. Returns distances float32 and rows int64, (Q, min(k, N)).

    All distances are sums over direct differences (that of unit vectors for L3, since 1 - cos is half its
    square), so near-duplicates are not ranked by the rounding of |x|² - 2xy + |y|². An `index` that is not
    an array is never held whole: the next block is read while one is searched, and these take some `memory`
    bytes, besides the Q * k results.
    """
    size, dimensions = index.shape
    k = min(k, size)
    queries = np.ascontiguousarray(queries, np.float32)
    blank = ~queries.any(axis=1)
    if distance == "L3":
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
        queries = (queries / np.where(lengths, lengths, 1)).astype(np.float32)
    bytes_a_row = 2 * 4 * dimensions + 4 * len(queries)
    block = min(BLOCK, max(1, memory // bytes_a_row))
    nearest = np.full((len(queries), k), np.iinfo(np.uint64).max)
    keep = kernels.keep_all if k == size else kernels.keep_nearest
    parts = _parts(len(queries), 1)
    with ThreadPoolExecutor(THREADS) as pool:
        for start, rows in _blocks(index, block):
            found = _distances(pool, queries, rows, distance)
            if distance == "L3":
                found[blank] = 1
            if zeros_last:
                found[blank] = np.inf
                found[:, ~rows.any(axis=1)] = np.inf
            pieces = [(found[part], start, nearest[part]) for part in parts]
            list(pool.map(lambda piece: keep(*piece), pieces))
        list(pool.map(lambda part: nearest[part].sort(axis=1), parts))
    distances = (nearest >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return distances, (nearest & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _blocks(index: Rows, block: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of `index` in blocks, each with its first row; the next one is read meanwhile."""
    starts = range(0, index.shape[0], block)
    if isinstance(index, np.ndarray):
        yield from (
            (start, np.ascontiguousarray(index[start : start + block], np.float32)) for start in starts
        )
        return
    # Two buffers in turn: memory that was written to before is several times as fast as new memory.
    buffers = np.empty((2, min(block, index.shape[0]), index.shape[1]), np.float32)

    def read(number: int, start: int) -> NDArray[np.float32]:
        rows = buffers[number % 2, : max(0, min(block, index.shape[0] - start))]
        if len(rows):
            index.read_direct(rows, np.s_[start : start + len(rows)])
        return rows

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0, 0)
        for number, start in enumerate(starts, 1):
            rows = coming.result()
            coming = reader.submit(read, number, start + block)
            yield start, rows


def _distances(
    pool: ThreadPoolExecutor, queries: NDArray[np.float32], rows: NDArray[np.float32], distance: str
) -> NDArray[np.float32]:
    found = np.empty((len(queries), len(rows)), np.float32)

    def compare(part: tuple[slice, slice]) -> None:
        kernels.distances(queries[part[0]], rows[part[1]], distance, found[part])

    by_row = _parts(len(rows), kernels.CHUNK)
    by_query = _parts(len(queries), 4) if len(by_row) < THREADS else [slice(None)]
    list(pool.map(compare, product(by_query, by_row)))
    return found


def _parts(count: int, multiple: int) -> list[slice]:
    """`count` things in parts of a `multiple`, two for each thread so that all have work till the end."""
    step = -(-count // (2 * THREADS * multiple)) * multiple
    return [slice(start, start + step) for start in range(0, count, step)]
