"""The nearest rows of the index to its own."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmarks.rerankers.descriptors import Floats
from landmarks.search import Rows, top_k


class Neighbours(NamedTuple):
    """Rows of the index, nearest first."""

    distances: Floats
    """(Q, k)."""
    rows: NDArray[np.int64]
    """(Q, k)."""


def nearest_others(
    index: Rows, start: int, own: Floats, distance: str, count: int, zeros_last: bool
) -> Neighbours:
    """The `count` rows nearest to each of the rows `own` (q, D), `start` onward, of the index, but itself."""
    distances, rows = top_k(own, index, distance, count + 1, zeros_last)
    itself = rows == start + np.arange(len(own))[:, None]
    itself[~itself.any(axis=1), -1] = True  # crowded out by its copies: the last of these goes instead
    kept = (len(own), rows.shape[1] - 1)
    return Neighbours(distances[~itself].reshape(kept), rows[~itself].reshape(kept))
