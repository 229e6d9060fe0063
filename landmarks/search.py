"""Exact search for the nearest rows."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

METRICS = {"L1": "cityblock", "L2": "euclidean", "L3": "cosine"}
BLOCK_BYTES = 64 << 20


class Rows(Protocol):
    """A float32 (N, D) array, or an HDF5 dataset of that shape, which is then read in blocks."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]: ...


def top_k(
    queries: NDArray[np.float32], index: Rows, distance: str, k: int, zeros_last: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` rows of `index` nearest to each query, nearest first, equal distances by the lower row.

    `queries`: float32 (Q, D). `distance`: `L1` Manhattan, `L2` Euclidean, `L3` cosine distance
    1 - cos (1 to a zero vector). `zeros_last`: a zero vector describes nothing, so it is infinitely far
    from all others. Returns distances float32 and rows int64, (Q, min(k, N)). `index` is
    never held whole: memory is a block of it and Q * (2k + block) distances.
    """
    size, dimensions = index.shape
    k = min(k, size)
    block = max(1, BLOCK_BYTES // (8 * max(dimensions, len(queries))))
    distances = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, size, block):
        stop = min(start + block, size)
        rows_read = index[start:stop]
        found = cdist(queries, rows_read, METRICS[distance])
        # Cosine alone can stray: below 0 by rounding, to NaN by a zero vector.
        found = np.nan_to_num(found, nan=1.0).clip(min=0).astype(np.float32)
        if zeros_last:
            found[~queries.any(axis=1)] = np.inf
            found[:, ~rows_read.any(axis=1)] = np.inf
        distances = np.hstack([distances, found])
        rows = np.hstack([rows, np.broadcast_to(np.arange(start, stop), found.shape)])
        if distances.shape[1] >= 2 * k or stop == size:
            # Earlier rows stand to the left, so a stable sort keeps the lower row first.
            nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
            distances = np.take_along_axis(distances, nearest, 1)
            rows = np.take_along_axis(rows, nearest, 1)
    return distances, rows
