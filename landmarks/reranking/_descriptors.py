"""What several methods need of descriptors: norms, cosines, and some rows of the index."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from landmarks.searching.search import Rows

Floats = NDArray[np.float32]


def normalized(x: NDArray[Any], norm: int | None) -> NDArray[np.float64]:
    """`x` (..., D) in float64, divided by its L1 or L2 norm, or as it is; zero vectors stay zero."""
    x = np.asarray(x, np.float64)
    if norm is None:
        return x
    lengths = np.linalg.norm(x, norm, axis=-1, keepdims=True)
    result: NDArray[np.float64] = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    return result


def norm_of(rows: "Rows", most: int) -> int | None:
    """1 or 2 where the first `most` of `rows` (N, D), but zeros, have unit L1 or L2 norm, else None."""
    norms = {1, 2}
    some = False
    for start in range(0, min(most, len(rows)), 256):
        part = rows[start : min(start + 256, most)]
        part = part[part.any(axis=1)]
        some |= len(part) > 0
        norms = {norm for norm in norms if np.allclose(np.linalg.norm(part, norm, axis=1), 1, atol=1e-3)}
    return min(norms, default=None) if some else None


def cosines(x: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """The cosine of each of `x` (Q, D) to its `others` (Q, n, D): (Q, n); 0 for zero vectors."""
    found: NDArray[np.float64] = np.einsum("qd,qnd->qn", normalized(x, 2), normalized(others, 2))
    return found


def together(memory: int, dimensions: int, neighbours: int) -> int:
    """How many descriptors (D,) are averaged at a time, each with its `neighbours`, within `memory` bytes."""
    return max(1, memory // (40 * dimensions * (neighbours + 1)))


def gathered(index: "Rows", rows: NDArray[np.integer[Any]]) -> Floats:
    """The descriptors of `rows`, of any shape: (..., D). Rows that stand together are read together."""
    wanted, places = np.unique(rows, return_inverse=True)
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1) if len(wanted) else []
    found = [index[int(run[0]) : int(run[-1]) + 1] for run in runs]
    descriptors: Floats = np.concatenate([*found, index[:0]])[places.reshape(rows.shape)]
    return descriptors
