"""SIFT, k-means words and VLAD: a photo described without a network.

Shapes: M descriptors of one photo, K words, D numbers per photo (K * 128, or fewer after the PCA).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from landmarks.describing.whitening import Whitening, learn_pca, unit
from landmarks.errors import InputError
from landmarks.photos import images
from landmarks.progress import tqdm

SIFT_LENGTH = 128
NORMALIZATIONS = ("signed_sqrt", "intra", "none")

Floats = NDArray[np.float32]
Item = TypeVar("Item")

log = logging.getLogger(__name__)


def descriptors(
    image: Image.Image | NDArray[np.uint8], *, keypoints: int, max_side: int, root_sift: bool
) -> Floats:
    """The SIFT descriptors (Lowe, IJCV 2004) of the strongest `keypoints` of a photo: float32 (M, 128).

    `image`, RGB or grey, is shrunk (never enlarged) to a longest side of `max_side` pixels. Keypoints
    come strongest response first, equal ones by position: top, then left. M may be 0.
    `root_sift`: the square root of the L1-normalised descriptor, so that Euclidean distance compares
    by the Hellinger kernel (Arandjelović and Zisserman, CVPR 2012); otherwise OpenCV's 0 to 255.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    grey = picture.convert("L")
    grey.thumbnail((max_side, max_side))
    found, vectors = cv2.SIFT.create(nfeatures=keypoints).detectAndCompute(np.asarray(grey), None)
    if not found:
        return np.empty((0, SIFT_LENGTH), np.float32)
    # OpenCV returns more than asked where responses tie, as those of one point's orientations do.
    ranks = [(-point.response, point.pt[1], point.pt[0], point.size, point.angle) for point in found]
    sift = np.asarray(vectors, np.float32)[sorted(range(len(ranks)), key=ranks.__getitem__)[:keypoints]]
    return np.sqrt(unit(sift, order=1)) if root_sift else sift


def sample(photos: Iterable[Floats], count: int, total: int, seed: int) -> Floats:
    """At most `total` descriptors drawn without replacement from those of `count` photos: (n, 128).

    Each photo has an equal share of `total`; the remainder goes, one each, to randomly chosen photos.
    If a photo has fewer descriptors than its share, the rest of the share stays unused: that keeps the
    photos balanced, and lets them be taken one at a time without holding more than the sample.
    """
    random = np.random.default_rng(seed)
    share, remainder = divmod(total, max(count, 1))
    shares = share + (random.permutation(count) < remainder)
    drawn = [
        random.choice(photo, min(size, len(photo)), replace=False)
        for photo, size in zip(photos, shares, strict=True)
    ]
    return np.concatenate([np.empty((0, SIFT_LENGTH), np.float32), *drawn])


def learn_words(descriptors: Floats, count: int, iterations: int, seed: int) -> Floats:
    """The visual words of `descriptors` (n, 128): the centres of `count` k-means clusters, (count, 128).

    Lloyd's algorithm from k-means++ centres, at most `iterations` rounds. Raises `InputError` if
    there are fewer descriptors than words.
    """
    if len(descriptors) < count:
        raise InputError(
            f"vlad.words: {count} words cannot be learned from {len(descriptors)} training descriptors; "
            "lower vlad.words, raise vlad.training_descriptors or vlad.keypoints, or add photos"
        )
    # Threads would add up their partial sums in the order in which they finish: other bytes, other words.
    with threadpool_limits(1):
        kmeans = KMeans(count, n_init=1, max_iter=iterations, random_state=seed).fit(descriptors)
    return np.asarray(kmeans.cluster_centers_, np.float32)


def assign(descriptors: Floats, words: Floats) -> NDArray[np.intp]:
    """The row of the word nearest to each descriptor by Euclidean distance, the lower of equals: (M,)."""
    # Squared differences in float64, not the faster |x|² - 2xw + |w|², whose rounding breaks ties.
    nearest: NDArray[np.intp] = cdist(descriptors, words, "sqeuclidean").argmin(axis=1)
    return nearest


def encode(descriptors: Floats, words: Floats, normalization: str) -> Floats:
    """The VLAD of a photo (Jégou, Douze, Schmid and Pérez, CVPR 2010): float32 (K * 128,).

    For each word, the sum of the residuals of the descriptors nearest to it; zero for a word without any.
    `normalization`: `signed_sqrt` (signed square roots, then unit L2 norm: Jégou, Perronnin, Douze,
    Sánchez, Pérez and Schmid, TPAMI 2012), `intra` (unit L2 norm per word, then of the whole:
    Arandjelović and Zisserman, "All about VLAD", CVPR 2013) or `none` (the bare
    sums; L3 ranks them as it does the vectors of 2010, which have unit L2 norm).
    """
    nearest = assign(descriptors, words)
    # Sums that cancel must come close to zero, for the square root would magnify what is left.
    residuals = np.subtract(descriptors, words[nearest], dtype=np.float64)
    sums = np.zeros(words.shape)
    np.add.at(sums, nearest, residuals)
    if normalization == "signed_sqrt":
        sums = np.sign(sums) * np.sqrt(np.abs(sums))
    elif normalization == "intra":
        sums = unit(sums)
    elif normalization != "none":
        raise InputError(f"vlad.normalization: {normalization!r} is not one of {', '.join(NORMALIZATIONS)}")
    vlad = sums.ravel()
    return (vlad if normalization == "none" else unit(vlad)).astype(np.float32)


def learn_whitening(vlads: Floats, dimensions: int) -> Whitening:
    """The PCA of `vlads` (n, K * 128) to `dimensions`; zero VLADs do not count.

    Raises `InputError` if the vectors span fewer dimensions, which is at most one less than photos.
    """
    return learn_pca(vlads[vlads.any(axis=1)], dimensions, parameter="vlad.pca_dimensions")


@dataclass(frozen=True, eq=False)
class Vlad:
    """A trained VLAD descriptor: float32 words (K, 128), the PCA if any, and the options of SIFT."""

    words: Floats
    pca: Whitening | None
    keypoints: int
    max_side: int
    root_sift: bool
    normalization: str

    kind = "vlad"

    @property
    def dimensions(self) -> int:
        """D, the length of a photo's descriptor."""
        return self.words.size if self.pca is None else len(self.pca.projection)

    def vector(self, photo: images.Source) -> Floats:
        """The descriptor of `photo`: float32 (D,); zero where it has no keypoints."""
        sift = descriptors(
            images.read(photo), keypoints=self.keypoints, max_side=self.max_side, root_sift=self.root_sift
        )
        vlad = encode(sift, self.words, self.normalization)
        return vlad if self.pca is None else self.pca.apply(vlad)

    def describe(
        self, photos: Sequence[images.Source], batch_size: int = 64, workers: int | None = None
    ) -> Iterator[Floats]:
        """The descriptors of `photos` in order, in float32 (n, D) blocks of at most `batch_size` rows.

        `workers`: photos described at a time, by default one per core; the result does not depend on it.
        The log says how many photos have no keypoints.
        """
        vectors = _in_order(self.vector, photos, workers)
        blank = 0
        while batch := list(islice(vectors, batch_size)):
            block = np.stack(batch)
            blank += int(np.sum(~block.any(axis=1)))
            yield block
        if blank:
            log.warning("%d of %d photos have no SIFT keypoints: zero vectors", blank, len(photos))

    def tensors(self) -> dict[str, Floats]:
        """The arrays to store; with `settings` all that `restore` needs."""
        if self.pca is None:
            return {"words": self.words}
        return {"words": self.words, "pca.mean": self.pca.mean, "pca.projection": self.pca.projection}

    def settings(self) -> dict[str, Any]:
        """The options, as JSON takes them."""
        return {
            "keypoints": self.keypoints,
            "max_side": self.max_side,
            "root_sift": self.root_sift,
            "normalization": self.normalization,
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, Floats], settings: Mapping[str, Any]) -> "Vlad":
        """The descriptor that `tensors` and `settings` were taken from."""
        pca = Whitening(tensors["pca.mean"], tensors["pca.projection"]) if "pca.mean" in tensors else None
        return cls(tensors["words"], pca, **settings)


def train(
    paths: Sequence[Path],
    *,
    words: int,
    keypoints: int,
    max_side: int,
    root_sift: bool,
    normalization: str,
    pca_dimensions: int,
    training_descriptors: int,
    kmeans_iterations: int,
    seed: int,
    workers: int | None = None,
) -> Vlad:
    """Learn words, and with `pca_dimensions` above 0 the PCA, from the photos at `paths`.

    The PCA takes a second pass over the photos: holding all their descriptors would not bound memory.
    Raises `InputError` if the photos are too few for the words or for the PCA.
    """
    _check_dimensions(pca_dimensions, max(0, min(len(paths) - 1, words * SIFT_LENGTH)))

    def sift(path: Path) -> Floats:
        return descriptors(images.read(path), keypoints=keypoints, max_side=max_side, root_sift=root_sift)

    photos = tqdm(_in_order(sift, paths, workers), "SIFT", len(paths), unit="photo")
    drawn = sample(photos, len(paths), training_descriptors, seed)
    log.info("learning %d words from %d SIFT descriptors", words, len(drawn))
    centres = learn_words(drawn, words, kmeans_iterations, seed)
    vlad = Vlad(centres, None, keypoints, max_side, root_sift, normalization)
    if pca_dimensions == 0:
        return vlad
    vectors = tqdm(_in_order(vlad.vector, paths, workers), "PCA", len(paths), unit="photo")
    return replace(vlad, pca=learn_whitening(np.stack(list(vectors)), pca_dimensions))


def _in_order(
    function: Callable[[Item], Floats], photos: Iterable[Item], workers: int | None
) -> Iterator[Floats]:
    """Map `function` over photos in threads, which is enough: Pillow and OpenCV let go of the GIL."""
    cv2.setNumThreads(1)  # two photos at a time are faster than two threads on one photo
    return images.in_order(function, photos, workers)


def _check_dimensions(dimensions: int, permitted: int) -> None:
    if dimensions > permitted:
        raise InputError(
            f"vlad.pca_dimensions: {dimensions} is more than the {permitted} that the training photos permit "
            "(one less than there are different photos with keypoints, at most vlad.words * 128); "
            "lower it, or set it to 0 for no PCA"
        )
