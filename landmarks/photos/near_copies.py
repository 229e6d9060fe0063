"""Near-copies: photos that are other photos saved again, resized, or taken a moment later."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from landmarks.compiling import compiled
from landmarks.cores import CORES
from landmarks.photos.catalog import Near, Photo, numbered

BITS = 8
"""Two photos are near-copies if each of their hashes differs in at most so many of 64 bits. 748 real photos,
saved again or resized, differed in 5 at most; photos of different things differed in as few as 8 bits of the
first hash alone, but then in 33 of the second."""

_TILE = 1024

Hashes = NDArray[np.uint64]
"""(N, 2): for each photo, the hash of its frequencies and the hash of its mean brightness."""


def hashed(grey: NDArray[np.uint8]) -> tuple[int, int]:
    """The two 64-bit perceptual hashes of a photo, given as uint8 (32, 32), grey.

    pHash says which low frequencies are stronger than their mean, and average hash which of 8 x 8 parts are
    brighter than the whole (Zauner, Implementation and benchmarking of perceptual image hash functions,
    2010).
    """
    frequencies, means = cv2.img_hash.pHash(grey), cv2.img_hash.averageHash(grey)
    return int.from_bytes(frequencies.tobytes()), int.from_bytes(means.tobytes())


def clusters(hashes: Hashes, kinds: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
    """For each photo, the lowest row of those that it is a near-copy of, directly or through others: (N,).

    With `kinds` (N,), only photos of the same kind are near-copies. All pairs are compared, some thousand
    million per second and core.
    """
    apart = np.zeros(len(hashes), np.uint64) if kinds is None else kinds.astype(np.uint64)
    # Any number of photos may be alike to the bit, as blank ones are; each pair of these would be joined.
    distinct, first, place = np.unique(
        np.column_stack([hashes, apart]), axis=0, return_index=True, return_inverse=True
    )
    columns = np.ascontiguousarray(distinct.T)

    def joined(thread: int) -> NDArray[np.int32]:
        roots = np.arange(len(distinct), dtype=np.int32)
        _join_near(columns, thread, CORES, roots)
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


def find(photos: Sequence[Photo], hashes: Hashes, labels: NDArray[np.intp]) -> list[Near]:
    """Which `photos` have near-copies, in their order: groups within a landmark, and pairs across landmarks.

    `labels` are the `clusters` of these photos, or what is left of those of more.
    """
    _, of_landmark = numbered([photo.class_image for photo in photos])
    rows = np.flatnonzero(np.bincount(labels)[labels] > 1)
    groups = rows[clusters(hashes[rows], of_landmark[rows])]
    sizes = np.bincount(groups)
    elsewhere = np.full(len(photos), -1)
    for cluster in alike(labels):
        if np.ptp(of_landmark[cluster]):
            _find_elsewhere(hashes, of_landmark, cluster, elsewhere)
    found = []
    for row, group in zip(rows.tolist(), groups.tolist(), strict=True):
        together = photos[group].image_path if sizes[group] > 1 else ""
        nearest = photos[elsewhere[row]].image_path if elsewhere[row] >= 0 else ""
        if together or nearest:
            found.append(Near(*photos[row][:2], together, nearest))
    return found


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


@njit(inline="always")
def _bits(columns: Any, column: Any, row: Any, other: Any) -> Any:
    """In how many bits of a hash two rows differ."""
    return np.int64(_ones(columns[column, row] ^ columns[column, other]))


@compiled()
def _join_near(columns: Any, first: int, step: int, roots: Any) -> None:
    """Join each `step`-th row, from `first` on, with those before it that are near, in `roots` int32 (N,).

    `columns`, uint64 (3, N): both hashes and the kind.
    """
    for row in range(first, columns.shape[1], step):
        for start in range(0, row, _TILE):
            stop = min(start + _TILE, row)
            near = 0
            for other in range(start, stop):  # without a branch, which would keep it from being vectorised
                near += _bits(columns, 0, row, other) <= BITS
            if near:
                for other in range(start, stop):
                    if (
                        _bits(columns, 0, row, other) <= BITS
                        and _bits(columns, 1, row, other) <= BITS
                        and columns[2, row] == columns[2, other]
                    ):
                        _join(roots, row, other)


@compiled()
def _join_all(others: Any, roots: Any) -> None:
    """Join in `roots` what is joined in `others`; each row then leads straight to its root."""
    for row in range(len(roots)):
        _join(roots, row, others[row])
    for row in range(len(roots)):
        roots[row] = _root(roots, row)


@compiled()
def _find_elsewhere(hashes: Any, of_landmark: Any, rows: Any, elsewhere: Any) -> None:
    """Write to int64 `elsewhere` (N,) which of `rows` is the nearest near-copy of each in another landmark.

    Of equally near ones it is the first; where there is none, `elsewhere` stays as it is.
    """
    columns = hashes.T
    for row in rows:
        fewest = 2 * BITS + 1
        for other in rows:
            if of_landmark[row] != of_landmark[other]:
                frequencies, means = _bits(columns, 0, row, other), _bits(columns, 1, row, other)
                if frequencies <= BITS and means <= BITS and frequencies + means < fewest:
                    fewest, elsewhere[row] = frequencies + means, other
            if not fewest:
                break
