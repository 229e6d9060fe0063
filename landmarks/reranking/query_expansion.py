"""`aqe` and `alpha_qe`: a descriptor is averaged with those of its neighbours, and searched by again."""

import numpy as np
from numpy.typing import NDArray

from landmarks.reranking._descriptors import Floats, cosines, normalized


def expanded(
    own: Floats, neighbours: Floats, there: NDArray[np.bool_], alpha: float, norm: int | None
) -> Floats:
    """Each descriptor q of `own` (Q, D) averaged with its `neighbours` x_i (Q, n, D): float32 (Q, D).

        (q + sum_i w_i x_i) / (1 + sum_i w_i),  w_i = max(cos(q, x_i), 0) ** alpha

    With alpha = 0 all have the same weight: average query expansion, d_avg = (d_0 + sum_i d_i) / (m + 1), of
    Chum, Philbin, Sivic, Isard and Zisserman, "Total recall: automatic query expansion with a generative
    feature model for object retrieval", ICCV 2007; there the d_i are spatially verified, as with
    `geometric+aqe`. Otherwise alpha-weighted query expansion of Radenović, Tolias and Chum,
    "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2019, where descriptors have
    unit L2 norm, so that their inner product is the cosine. That negative cosines, which whitened
    descriptors have, count as 0 is ours.

    `there` (Q, n) is False where there is no neighbour, or none to be averaged. `norm`: 1 or 2 if
    descriptors have unit L1 or L2 norm, which the average then gets, too; None if they have neither.

    >>> neighbours = np.array([[[0.6, 0.8], [0, 1]]], np.float32)  # of which the second has a cosine of 0
    >>> expanded(np.array([[1, 0]], np.float32), neighbours, np.ones((1, 2), bool), alpha=1, norm=None)
    array([[0.85, 0.3 ]], dtype=float32)
    """
    q, x = normalized(own, norm), normalized(neighbours, norm)
    weights = np.where(there, cosines(q, x).clip(min=0) ** alpha, 0)
    mean = (q + np.einsum("qn,qnd->qd", weights, x)) / (1 + weights.sum(axis=1, keepdims=True))
    return normalized(mean, norm).astype(np.float32)
