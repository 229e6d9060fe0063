"""What several methods need of descriptors: norms, cosines, and some rows of the index."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmarks.search import Rows, top_k

Floats = NDArray[np.float32]


class Neighbours(NamedTuple):
    """Rows of the index, nearest first."""

    distances: Floats
    """(Q, k)."""
    rows: NDArray[np.int64]
    """(Q, k)."""


def normalized(x: NDArray[Any], norm: int | None) -> NDArray[np.float64]:
    """`x` (..., D) in float64, divided by its L1 or L2 norm, or as it is; zero vectors stay zero."""
    x = np.asarray(x, np.float64)
    if norm is None:
        return x
    lengths = np.linalg.norm(x, norm, axis=-1, keepdims=True)
    result: NDArray[np.float64] = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    return result


def norm_of(rows: Floats) -> int | None:
    """1 or 2 where all of `rows` (n, D) that are not zero have unit L1 or L2 norm, else None."""
    rows = rows[rows.any(axis=1)]
    for norm in (1, 2):
        if len(rows) and np.allclose(np.linalg.norm(rows, norm, axis=1), 1, atol=1e-3):
            return norm
    return None


def cosines(x: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """The cosine of each of `x` (Q, D) to its `others` (Q, n, D): (Q, n); 0 for zero vectors."""
    found: NDArray[np.float64] = np.einsum("qd,qnd->qn", normalized(x, 2), normalized(others, 2))
    return found


def gathered(index: Rows, rows: NDArray[np.integer[Any]]) -> Floats:
    """The descriptors of `rows`, of any shape: (..., D). Rows that stand together are read together."""
    wanted, places = np.unique(rows, return_inverse=True)
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1) if len(wanted) else []
    found = [index[int(run[0]) : int(run[-1]) + 1] for run in runs]
    descriptors: Floats = np.concatenate([*found, index[:0]])[places.reshape(rows.shape)]
    return descriptors


def nearest_others(
    index: Rows, start: int, own: Floats, distance: str, count: int, zeros_last: bool
) -> Neighbours:
    """The `count` rows nearest to each of the rows `own` (q, D), `start` onward, of the index, but itself."""
    distances, rows = top_k(own, index, distance, count + 1, zeros_last)
    itself = rows == start + np.arange(len(own))[:, None]
    itself[~itself.any(axis=1), -1] = True  # crowded out by its copies: the last of these goes instead
    kept = (len(own), rows.shape[1] - 1)
    return Neighbours(distances[~itself].reshape(kept), rows[~itself].reshape(kept))
