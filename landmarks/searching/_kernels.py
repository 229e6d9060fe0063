"""The inner loops of search, compiled by Numba: distances in register tiles, and the nearest so far.

A core does some 50 billion float operations per second on numbers in its registers, and a fraction of that
on numbers from memory. So a tile of 4 queries and 4 rows is compared at once (8 numbers are loaded for 16
differences), and `CHUNK` rows stay in the core's cache while all queries pass by.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from landmarks.compiling import compiled

CHUNK = 64
"""Rows: of 2048 numbers these take 0.5 MB, half of what a core's second cache holds today."""
_SPAN = 1024
"""Numbers added up in float32 before they go to a float64 sum, so that the error does not grow with D."""
# Sums may be reordered, for that is what lets them be vectorised; NaN and infinity keep their meaning.
_FAST = {"reassoc", "nsz", "contract"}

Floats = NDArray[np.float32]


_ONES = np.ones(4, np.float32)


@njit(inline="always", fastmath=_FAST)
def _term(x: Any, y: Any, one: Any, squared: Any) -> Any:
    # x * 1 - y is the same number, by a fused instruction; processors that add and multiply at a time
    # leave their multipliers idle otherwise.
    return abs(x * one - y) if squared is None else (x - y) * (x - y)


@compiled(fastmath=_FAST)
def _sums(queries: Any, all_rows: Any, squared: Any, unit: Any, ones: Any, out: Any) -> None:
    """Write the sums (Q, N) of `_term` over the dimensions of queries (Q, D) and rows (N, D) to `out`.

    `ones`: `_ONES`, which the compiler must not know, nor that they are alike, or it would leave them out.
    `unit`: rows are divided by their lengths first. At the edges the last row of a tile is computed again:
    so each pair goes the same way, and equal rows get equal sums.
    """
    count, dimensions = queries.shape
    one0, one1, one2, one3 = ones[0], ones[1], ones[2], ones[3]
    scaled = np.empty((CHUNK if unit else 0, dimensions), np.float32)
    blank = np.zeros(CHUNK, np.bool_)
    for start in range(0, len(all_rows), CHUNK):
        rows = all_rows[start : start + CHUNK]
        if unit:
            for j in range(len(rows)):
                quick = np.float32(0)
                for d in range(dimensions):
                    quick += rows[j, d] * rows[j, d]
                blank[j] = False
                if 1e-30 < quick < 1e30:
                    scale = np.float32(1 / math.sqrt(quick))
                    for d in range(dimensions):
                        scaled[j, d] = rows[j, d] * scale
                    continue
                square = np.float64(0)  # float32 loses digits
                for d in range(dimensions):
                    square += np.float64(rows[j, d]) ** 2
                blank[j] = square == 0
                for d in range(dimensions):
                    scaled[j, d] = rows[j, d] / math.sqrt(square) if square else 0
            rows = scaled[: len(rows)]
        last = len(rows) - 1
        found = out[:, start : start + CHUNK]
        for i0 in range(0, count, 4):
            i1, i2, i3 = min(i0 + 1, count - 1), min(i0 + 2, count - 1), min(i0 + 3, count - 1)
            for j0 in range(0, len(rows), 4):
                j1, j2, j3 = min(j0 + 1, last), min(j0 + 2, last), min(j0 + 3, last)
                t00 = t01 = t02 = t03 = t10 = t11 = t12 = t13 = np.float64(0)
                t20 = t21 = t22 = t23 = t30 = t31 = t32 = t33 = np.float64(0)
                for low in range(0, dimensions, _SPAN):
                    high = min(low + _SPAN, dimensions)
                    q0, q1, q2, q3 = (
                        queries[i0, low:high],
                        queries[i1, low:high],
                        queries[i2, low:high],
                        queries[i3, low:high],
                    )
                    r0, r1, r2, r3 = (
                        rows[j0, low:high],
                        rows[j1, low:high],
                        rows[j2, low:high],
                        rows[j3, low:high],
                    )
                    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.float32(0)
                    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = np.float32(0)
                    for d in range(high - low):
                        x0, x1, x2, x3 = q0[d], q1[d], q2[d], q3[d]
                        y0, y1, y2, y3 = r0[d], r1[d], r2[d], r3[d]
                        s00 += _term(x0, y0, one0, squared)
                        s01 += _term(x0, y1, one1, squared)
                        s02 += _term(x0, y2, one2, squared)
                        s03 += _term(x0, y3, one3, squared)
                        s10 += _term(x1, y0, one0, squared)
                        s11 += _term(x1, y1, one1, squared)
                        s12 += _term(x1, y2, one2, squared)
                        s13 += _term(x1, y3, one3, squared)
                        s20 += _term(x2, y0, one0, squared)
                        s21 += _term(x2, y1, one1, squared)
                        s22 += _term(x2, y2, one2, squared)
                        s23 += _term(x2, y3, one3, squared)
                        s30 += _term(x3, y0, one0, squared)
                        s31 += _term(x3, y1, one1, squared)
                        s32 += _term(x3, y2, one2, squared)
                        s33 += _term(x3, y3, one3, squared)
                    t00, t01, t02, t03 = t00 + s00, t01 + s01, t02 + s02, t03 + s03
                    t10, t11, t12, t13 = t10 + s10, t11 + s11, t12 + s12, t13 + s13
                    t20, t21, t22, t23 = t20 + s20, t21 + s21, t22 + s22, t23 + s23
                    t30, t31, t32, t33 = t30 + s30, t31 + s31, t32 + s32, t33 + s33
                found[i0, j0], found[i0, j1], found[i0, j2], found[i0, j3] = t00, t01, t02, t03
                found[i1, j0], found[i1, j1], found[i1, j2], found[i1, j3] = t10, t11, t12, t13
                found[i2, j0], found[i2, j1], found[i2, j2], found[i2, j3] = t20, t21, t22, t23
                found[i3, j0], found[i3, j1], found[i3, j2], found[i3, j3] = t30, t31, t32, t33
        for j in range(len(rows)):
            if blank[j]:
                found[:, j] = 2  # as far from unit vectors as those at a right angle to them


def distances(queries: Floats, rows: Floats, distance: str, out: Floats) -> None:
    """Write the distances of float32 `queries` (Q, D) and `rows` (N, D) to `out` (Q, N).

    `L1`, `L2`, or `L3`, for which the queries are unit vectors or zero. Lets go of the GIL.
    """
    if distance == "L1":
        _sums(queries, rows, None, False, _ONES, out)
        return
    _sums(queries, rows, True, distance == "L3", _ONES, out)
    if distance == "L2":
        np.sqrt(out, out)
    else:
        out /= 2


@njit(inline="always")
def _key(bits: Any, row: Any) -> Any:
    return (np.uint64(bits) << np.uint64(32)) | np.uint64(row)


@compiled()
def keep_all(found: Any, first: int, keys: Any) -> None:
    """Write the keys of the `found` distances (Q, B) of the rows from `first` on to uint64 `keys` (Q, N).

    A key holds the bits of a distance (which order as the distance does, for it is not negative) above those
    of its row: so of equal distances the lower row is the nearer.
    """
    bits = found.view(np.uint32)
    for query in range(len(found)):
        for place in range(found.shape[1]):
            keys[query, first + place] = _key(bits[query, place], first + place)


@compiled()
def keep_nearest(found: Any, first: int, nearest: Any) -> None:
    """Take the `found` distances (Q, B) of the rows from `first` on into the `nearest` so far.

    `nearest`: uint64 (Q, k), a max-heap of keys as in `keep_all` for each query.
    """
    bits = found.view(np.uint32)
    for query in range(len(found)):
        heap = nearest[query]
        size = len(heap)
        for place in range(found.shape[1]):
            key = _key(bits[query, place], first + place)
            if key >= heap[0]:
                continue
            hole = 0
            child = 1
            while child < size:
                if child + 1 < size and heap[child + 1] > heap[child]:
                    child += 1
                if heap[child] <= key:
                    break
                heap[hole] = heap[child]
                hole = child
                child = 2 * hole + 1
            heap[hole] = key
