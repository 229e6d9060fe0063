"""`geometric`: results that show what the query shows, perhaps from another side, come first."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from landmarks.cores import CORES
from landmarks.params import Geometric
from landmarks.photos import images
from landmarks.photos.images import Source

CACHED_PHOTOS = 2000
LEAST_SIDE = 3
"""Pixels: there is nothing to find in smaller photos, and OpenCV's ORB fails on them."""


class Local(NamedTuple):
    """The local features of one photo."""

    points: NDArray[np.float32]
    """(M, 2): x, y in pixels of the shrunken photo."""
    descriptors: NDArray[np.uint8]
    """(M, 128) of SIFT, (M, 32) of ORB, whose bits are the numbers."""
    size: tuple[int, int]
    """Width and height of the shrunken photo."""


def local_features(photo: Source, options: Geometric) -> Local:
    """The strongest SIFT (Lowe, IJCV 2004) or ORB (Rublee et al., ICCV 2011) features of a photo."""
    grey = images.read(photo, options.max_side).convert("L")
    grey.thumbnail((options.max_side, options.max_side))
    if options.features == "sift":
        detector: cv2.Feature2D = cv2.SIFT.create(nfeatures=options.keypoints)
    else:
        detector = cv2.ORB.create(nfeatures=options.keypoints)
    found: Sequence[cv2.KeyPoint] = ()
    if min(grey.size) >= LEAST_SIDE:
        found, descriptors = detector.detectAndCompute(np.asarray(grey), None)
    if not found:
        none = np.empty((0, detector.descriptorSize()), np.uint8)
        return Local(np.empty((0, 2), np.float32), none, grey.size)
    # OpenCV's SIFT descriptors are whole numbers below 256, in float32.
    points = np.array([point.pt for point in found], np.float32)
    return Local(points, descriptors.astype(np.uint8), grey.size)


@lru_cache(1)
def _cached(photos: int) -> Callable[[Source, Geometric], Local]:
    return lru_cache(photos)(local_features)


forget = _cached.cache_clear


def cached_photos(memory: int, options: Geometric) -> int:
    """The local features of how many photos, `CACHED_PHOTOS` at most, `memory` (bytes) has room for."""
    each = options.keypoints * (8 + (128 if options.features == "sift" else 32))
    return min(CACHED_PHOTOS, memory // each)


def inliers(query: Local, other: Local, options: Geometric) -> NDArray[np.intp]:
    """The features (n, 2) of `query` and `other` that match and agree on one transformation.

    Philbin, Chum, Isard, Sivic and Zisserman, "Object retrieval with large vocabularies and fast spatial
    matching", CVPR 2007, verify results by locally optimised RANSAC in this way. There, each pair of equal
    visual words proposes an affinity by the shapes of its regions. Here, the candidates are the matches of
    Lowe's ratio test (IJCV 2004), several of them make a proposal, and a homography (MSAC with local
    optimisation, OpenCV's USAC) or an affinity (RANSAC) is fitted.
    """
    pairs = matches(query, other, options)
    if len(pairs) < max(options.min_inliers, 4):
        return pairs[:0]
    source, target = query.points[pairs[:, 0]], other.points[pairs[:, 1]]
    cv2.setRNGSeed(0)
    if options.model == "homography":
        _, agree = cv2.findHomography(source, target, cv2.USAC_DEFAULT, options.threshold)
    else:
        _, agree = cv2.estimateAffine2D(
            source, target, method=cv2.RANSAC, ransacReprojThreshold=options.threshold
        )
    kept = pairs[agree.ravel().astype(bool)] if agree is not None else pairs[:0]
    return kept if len(kept) >= options.min_inliers else pairs[:0]


def matches(query: Local, other: Local, options: Geometric) -> NDArray[np.intp]:
    """The features (n, 2) of `query` and `other` that pass the ratio test, each at most once."""
    if not len(query.points) or len(other.points) < 2:
        return np.empty((0, 2), np.intp)
    likeness = _unit(query, options) @ _unit(other, options).T
    every = np.arange(len(likeness))
    nearest = likeness.argmax(axis=1)
    best = likeness[every, nearest]
    likeness[every, nearest] = -np.inf
    # 1 - likeness is half the squared distance of SIFT, and a multiple of the Hamming distance of ORB.
    power = 2 if options.features == "sift" else 1
    good = 1 - best < options.ratio**power * (1 - likeness.max(axis=1))
    order = np.flatnonzero(good)[np.argsort(-best[good], kind="stable")]
    _, first = np.unique(nearest[order], return_index=True)
    order = order[np.sort(first)]
    return np.stack([order, nearest[order]], axis=1)


def _unit(local: Local, options: Geometric) -> NDArray[np.float32]:
    """Descriptors of unit L2 norm: RootSIFT (Arandjelović and Zisserman, CVPR 2012), or bits as -1 and 1."""
    if options.features == "orb":
        bits = np.unpackbits(local.descriptors, axis=1).astype(np.float32)
        return (2 * bits - 1) / np.float32(np.sqrt(bits.shape[1]))
    sift = local.descriptors.astype(np.float32)
    roots: NDArray[np.float32] = np.sqrt(sift / np.maximum(sift.sum(axis=1, keepdims=True), 1))
    return roots


def verified(
    tasks: Iterable[tuple[Source, Sequence[Path]]],
    options: Geometric,
    workers: int | None = None,
    cached: int = CACHED_PHOTOS,
) -> Iterator[NDArray[np.intp]]:
    """How many inliers each result has with its query, (n,) for each of the `tasks`, a query and n results.

    `workers`: threads, by default one per core. The features of the next query are found while the results
    of one are compared; those of `cached` results are kept for the next queries. Raises `InputError` if a
    photo does not decode.
    """
    features = _cached(cached)
    with ThreadPoolExecutor(workers or CORES) as pool:

        def counts(of_query: Future[Local], results: Sequence[Path]) -> NDArray[np.intp]:
            query = of_query.result()
            found = pool.map(lambda path: len(inliers(query, features(path, options), options)), results)
            return np.fromiter(found, np.intp, len(results))

        before = None
        for query, results in tasks:
            described = pool.submit(local_features, query, options), results
            if before is not None:
                yield counts(*before)
            before = described
        if before is not None:
            yield counts(*before)


_alone = threading.Lock()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep OpenCV and BLAS to the thread that calls them, where there is one per core already.

    These are settings of the whole process, so who comes second waits.
    """
    with _alone, threadpool_limits(1, user_api="blas"):
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            cv2.setNumThreads(before)
