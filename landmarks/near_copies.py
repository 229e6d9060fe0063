"""Near-copies: photos that are other photos saved again, resized, or taken a moment later."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from landmarks.catalog import Near
from landmarks.compiling import compiled
from landmarks.cores import CORES

BITS = 8
"""Two photos are near-copies where both of their hashes differ in so many of 64 bits at most. Saved again or
resized, 748 real photos differed in 5 at most; photos of different things in as few as 8 of the first hash
alone, but then in 33 of the second."""

_TILE = 1024

Hashes = NDArray[np.uint64]
"""(N, 2): of each photo the hash of its frequencies and the hash of its mean brightness."""


def hashed(grey: NDArray[np.uint8]) -> tuple[int, int]:
    """The two 64-bit perceptual hashes of a photo, given as uint8 (32, 32), grey.

    pHash, which low frequencies are stronger than their mean, and average hash, which of 8 x 8 parts are
    brighter than the whole (Zauner, Implementation and benchmarking of perceptual image hash functions,
    2010).
    """
    frequencies, means = cv2.img_hash.pHash(grey), cv2.img_hash.averageHash(grey)
    return int.from_bytes(frequencies.tobytes()), int.from_bytes(means.tobytes())


def clusters(hashes: Hashes) -> NDArray[np.intp]:
    """For each photo the lowest row of those that it is a near-copy of, directly or over others: (N,).

    All pairs are compared, some thousand million a second and core.
    """
    # Any number of photos may be alike to the bit, as blank ones are; each pair of these would be joined.
    distinct, first, place = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    frequencies, means = np.ascontiguousarray(distinct.T)

    def joined(thread: int) -> NDArray[np.int32]:
        roots = np.arange(len(distinct), dtype=np.int32)
        _join_near(frequencies, means, thread, CORES, roots)
        return roots

    with ThreadPoolExecutor(CORES) as pool:
        roots, *others = pool.map(joined, range(CORES))
    for other in (*others, roots):
        _join_all(other, roots)
    lowest = np.full(len(distinct), len(hashes))
    np.minimum.at(lowest, roots, first)
    return lowest[roots][place.reshape(-1)]


def alike(labels: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The rows of each of the `clusters` (N,) of two photos or more, ascending."""
    order = np.argsort(labels, kind="stable")
    edges = np.flatnonzero(np.diff(labels[order])) + 1
    return [rows for rows in np.split(order, edges) if len(rows) > 1]


def find(paths: Sequence[str], landmarks: Sequence[str], hashes: Hashes) -> list[Near]:
    """What has near-copies, in the order of `paths`: groups within a landmark, and pairs across landmarks."""
    found: dict[int, Near] = {}
    for rows in alike(clusters(hashes)):
        of_landmark = defaultdict(list)
        for row in rows.tolist():
            of_landmark[landmarks[row]].append(row)
        for name, members in of_landmark.items():
            groups = clusters(hashes[members])
            sizes = np.bincount(groups)
            strangers = np.setdiff1d(rows, members)
            for row, group in zip(members, groups, strict=True):
                together = paths[members[group]] if sizes[group] > 1 else ""
                nearest = _nearest(hashes, row, strangers)
                elsewhere = "" if nearest is None else paths[nearest]
                if together or elsewhere:
                    found[row] = Near(paths[row], name, together, elsewhere)
    return [found[row] for row in sorted(found)]


def _nearest(hashes: Hashes, row: int, others: NDArray[np.intp]) -> int | None:
    """The one of `others` that differs from `row` in the fewest bits, None where none is a near-copy."""
    bits = np.bitwise_count(hashes[others] ^ hashes[row])
    near = (bits <= BITS).all(axis=1)
    return int(others[near][bits[near].sum(axis=1).argmin()]) if near.any() else None


@njit(inline="always")
def _ones(bits: Any) -> Any:
    """How many bits are set; written so that compilers know it for one instruction."""
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(inline="always")
def _root(roots: Any, row: Any) -> Any:
    while roots[row] != row:
        roots[row] = roots[roots[row]]
        row = roots[row]
    return row


@njit(inline="always")
def _join(roots: Any, one: Any, other: Any) -> None:
    one, other = _root(roots, one), _root(roots, other)
    if one < other:
        roots[other] = one
    elif other < one:
        roots[one] = other


@compiled()
def _join_near(frequencies: Any, means: Any, first: int, step: int, roots: Any) -> None:
    """Join each `step`-th row, from `first` on, with those before it that are near, in `roots` int32 (N,)."""
    for row in range(first, len(frequencies), step):
        for start in range(0, row, _TILE):
            stop = min(start + _TILE, row)
            near = 0
            for other in range(start, stop):  # without a branch, which would keep it from being vectorised
                near += _ones(frequencies[row] ^ frequencies[other]) <= np.uint64(BITS)
            if near:
                for other in range(start, stop):
                    if _ones(frequencies[row] ^ frequencies[other]) <= np.uint64(BITS) and _ones(
                        means[row] ^ means[other]
                    ) <= np.uint64(BITS):
                        _join(roots, row, other)


@compiled()
def _join_all(others: Any, roots: Any) -> None:
    """Join in `roots` what is joined in `others`; each row then leads straight to its root."""
    for row in range(len(roots)):
        _join(roots, row, others[row])
    for row in range(len(roots)):
        roots[row] = _root(roots, row)
