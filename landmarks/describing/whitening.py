"""Whitening of descriptors, learned from those of the training photos: by PCA, or from pairs of classes.

Shapes: N training descriptors of length D, and `dimensions` numbers of a whitened one.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from landmarks.errors import InputError

TENSORS = "landmark_whitening"
"""Where the arrays stand in model.safetensors; no network has a layer of this name."""

Floats = NDArray[np.float32]
FloatType = TypeVar("FloatType", np.float32, np.float64)


@dataclass(frozen=True, eq=False)
class Whitening:
    """y = unit(P (x - m)), of unit L2 norm (Jégou and Chum, ECCV 2012).

    `mean`: float32 (D,), m. `projection`: float32 (dimensions, D), P, its most telling rows first.
    """

    mean: Floats
    projection: Floats

    def apply(self, vectors: Floats) -> Floats:
        """The whitened `vectors` (..., D): float32 (..., dimensions), of unit L2 norm; zero stays zero."""
        whitened = unit((vectors - self.mean) @ self.projection.T)
        return np.where(vectors.any(axis=-1, keepdims=True), whitened, np.float32(0))


def learn_pca(vectors: Floats, dimensions: int, power: float = 1.0, parameter: str = "") -> Whitening:
    """PCA whitening of `vectors` (N, D): row i of P is axis i over the variance along it to `power` / 2.

    `power` 1 whitens, 0 only rotates; values in between shrink the effect, since few photos tell the last
    variances badly (Mukundan, Tolias, Bursuc, Jégou and Chum, IJCV 2019). Raises `InputError` naming
    `parameter` if the vectors span fewer than `dimensions`, which is at most N - 1.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    spreads, axes = _axes(vectors - mean)
    # Spreads below the rounding of float32 are noise, which whitening would blow up.
    _check(parameter, dimensions, int(np.sum(spreads > 1e-6 * spreads.max(initial=0))), len(vectors))
    deviations = spreads[:dimensions, None] / np.sqrt(len(vectors) - 1)
    return Whitening(mean.astype(np.float32), (axes[:dimensions] / deviations**power).astype(np.float32))


def learn_discriminative(
    vectors: Floats, classes: NDArray[np.intp], dimensions: int, parameter: str = ""
) -> Whitening:
    """Whitening from pairs of `vectors` (N, D), of one of the `classes` (N,) or of two.

    With C_S and C_D the mean of (x_i - x_j)(x_i - x_j)^T over pairs of one class and of two, P is
    C_S^(-1/2) followed by the first eigenvectors of C_S^(-1/2) C_D C_S^(-1/2), largest eigenvalues first
    (Mikolajczyk and Matas, ICCV 2007; Radenović, Tolias and Chum, TPAMI 2019). Where the photos are too few
    for C_S to have full rank, the vectors are first projected to the `dimensions` axes of their PCA, like
    faces by Belhumeur, Hespanha and Kriegman (TPAMI 1997; there to N less the number of classes). Raises
    `InputError` naming `parameter` if C_S lacks full rank even there, as it does if N less the number of
    classes is below `dimensions`.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    spreads, basis = np.linalg.norm(centred), np.eye(vectors.shape[1])
    rank = int(np.sum(_axes(_within(centred, classes))[0] > 1e-6 * spreads))
    if rank < vectors.shape[1]:
        _check(parameter, dimensions, rank, len(vectors))
        basis = _axes(centred)[1][:dimensions]
        centred = centred @ basis.T
    _check(parameter, dimensions, centred.shape[1], len(vectors))
    same, other = _pairs(centred, classes)
    with threadpool_limits(1):
        variances, axes = np.linalg.eigh(same)
        _check(parameter, dimensions, int(np.sum(variances > 1e-12 * variances[-1])), len(vectors))
        whitener = axes / np.sqrt(variances) @ axes.T
        _, rotation = np.linalg.eigh(whitener @ other @ whitener)
        projection = rotation[:, ::-1].T[:dimensions] @ whitener @ basis
    return Whitening(mean.astype(np.float32), projection.astype(np.float32))


def _pairs(
    vectors: NDArray[np.float64], classes: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """C_S and C_D of centred `vectors`.

    No pair is formed: over the pairs of n vectors the (x_i - x_j)(x_i - x_j)^T sum to n times their scatter.
    """
    sizes = np.bincount(classes)
    weighted = _within(vectors, classes) * np.sqrt(sizes[classes])[:, None]
    same = weighted.T @ weighted
    other = len(vectors) * vectors.T @ vectors - same
    count = int((sizes * (sizes - 1) // 2).sum())
    return same / count, other / (len(vectors) * (len(vectors) - 1) // 2 - count)


def _within(vectors: NDArray[np.float64], classes: NDArray[np.intp]) -> NDArray[np.float64]:
    """What is left of `vectors` when the mean of its class is taken from each."""
    sums = np.zeros((int(classes.max()) + 1, vectors.shape[1]))
    np.add.at(sums, classes, vectors)
    within: NDArray[np.float64] = vectors - (sums / np.maximum(np.bincount(classes), 1)[:, None])[classes]
    return within


def _axes(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The principal axes as rows, and the norm of what lies along each, largest first."""
    with threadpool_limits(1):  # the last bits depend on the number of threads
        _, spreads, axes = np.linalg.svd(centred, full_matrices=False)
    return spreads, axes


def unit(vectors: NDArray[FloatType], order: int = 2) -> NDArray[FloatType]:
    """`vectors` divided by their norm of that order along the last axis; zero ones stay zero."""
    norms = np.linalg.norm(vectors, order, axis=-1, keepdims=True)
    norms[norms == 0] = 1
    units: NDArray[FloatType] = vectors / norms
    return units


def _check(parameter: str, dimensions: int, permitted: int, photos: int) -> None:
    if dimensions > permitted:
        raise InputError(
            f"{parameter}: {dimensions} is more than the {permitted} that {photos} training photos permit "
            "(no more than the length of a descriptor, and fewer than there are different photos; with "
            "classes, fewer by one for each class); lower it or train on more photos"
        )
