"""Exact search for the nearest rows."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, local
from typing import TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from landmarks import kernels

MEMORY = 256 << 20
THREADS = len(os.sched_getaffinity(0))
BLOCK = 1 << 13
"""Rows to read from a file at a time, where memory permits."""
PIECE = 1 << 10
"""Rows for a thread to compare at a time, at most."""
_CACHED = 1 << 20
"""Bytes of the distances of a piece, so that they are still in cache when they are looked through."""

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
    block = max(1, min(size, BLOCK, memory // (2 * 4 * dimensions)))
    if isinstance(index, np.ndarray):
        block = size
    piece = max(1, _CACHED // (4 * max(1, len(queries)) * kernels.CHUNK)) * kernels.CHUNK
    piece = min(PIECE, piece, _share(block, 4))
    nearest = np.full((len(queries), k), np.iinfo(np.uint64).max)
    keep = kernels.keep_all if k == size else kernels.keep_nearest
    some = _share(len(queries), 1)
    parts = [(slice(first, first + some), Lock()) for first in range(0, len(queries), some)]
    scratch = local()

    def search(start: int, rows: NDArray[np.float32]) -> None:
        if not hasattr(scratch, "own"):
            scratch.own = np.empty(len(queries) * piece, np.float32)
        rows = np.ascontiguousarray(rows, np.float32)
        found = scratch.own[: len(queries) * len(rows)].reshape(len(queries), len(rows))
        kernels.distances(queries, rows, distance, found)
        if distance == "L3":
            found[blank] = 1
        if zeros_last:
            found[blank] = np.inf
            found[:, ~rows.any(axis=1)] = np.inf
        for part, lock in parts:
            with lock:
                keep(found[part], start, nearest[part])

    with ThreadPoolExecutor(THREADS) as pool:
        for start, rows in _blocks(index, block):
            lows = range(0, len(rows), piece)
            pieces = [rows[low : low + piece] for low in lows]
            list(pool.map(search, [start + low for low in lows], pieces))
        list(pool.map(lambda part: nearest[part[0]].sort(axis=1), parts))
    distances = (nearest >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return distances, (nearest & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _blocks(index: Rows, block: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of `index`, those of a file in blocks, each with its first row; the next is read meanwhile."""
    if isinstance(index, np.ndarray):
        yield 0, index
        return
    starts = range(0, index.shape[0], block)
    # Two buffers in turn: memory that was written to before is several times as fast as new memory.
    buffers = np.empty((2, block, index.shape[1]), np.float32)

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


def _share(count: int, multiple: int) -> int:
    """Of `count` things, two shares for each thread so that all have work till the end; a `multiple`."""
    return max(1, -(-count // (2 * THREADS * multiple))) * multiple
