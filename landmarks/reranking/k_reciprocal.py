"""`k_reciprocal`: results that share their mutual neighbours with the query are near."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from landmarks.reranking._descriptors import Floats
from landmarks.searching.search import top_k


def distances(
    query: Floats, results: Floats, distance: str, k1: int, k2: int, weight: float
) -> NDArray[np.float64]:
    """The distance d* of each of `results` (n, D) to `query` (D,), by k-reciprocal encoding: (n,).

    Zhong, Zheng, Cao and Li, "Re-ranking person re-identification with k-reciprocal encoding", CVPR
    2017. Among the query and its results, with N(p, k) the k nearest of p besides p itself:

        R(p, k)  = {g in N(p, k): p in N(g, k)}
        R*(p)    = R(p, k1), and R(q, k1 / 2) of each q in it with
                   |R(p, k1) ∩ R(q, k1 / 2)| >= 2/3 |R(q, k1 / 2)|
        V_p,g    = exp(-d(p, g)) where g in R*(p), else 0
        V_p      = mean of V_g over the k2 nearest g of p                 (local query expansion)
        d_J(p,g) = 1 - sum_i min(V_p,i, V_g,i) / sum_i max(V_p,i, V_g,i)
        d*(p,g)  = (1 - weight) d_J(p,g) + weight d(p,g)

    As in the authors' code, p counts among its own neighbours (besides k1 others, but as one of the k2), each
    row of d is divided by its largest value, and each V_p by its sum. Exactly 2/3 is enough, as in the paper;
    their code wants more. d is the `distance`, with L2 squared as in the paper. Here, the paper's gallery is
    what was retrieved for one query, so memory is quadratic in n (`bytes_of`), whatever the index is; other
    queries take no part.
    """
    items = np.vstack([query, results])
    found, nearest = top_k(items, items, distance, len(items))
    d = found.astype(np.float64) ** (2 if distance == "L2" else 1)
    d /= np.maximum(d[:, -1:], np.finfo(np.float64).tiny)
    reciprocal, halfway = _reciprocal(nearest[:, : k1 + 1]), _reciprocal(nearest[:, : k1 // 2 + 1])
    common = (reciprocal @ halfway.T).toarray()
    accepted = reciprocal.toarray() * (3 * common >= 2 * halfway.sum(axis=1))
    members = reciprocal.toarray() + accepted @ halfway.toarray() > 0
    np.fill_diagonal(members, True)  # among more duplicates than k1 it is not in its own list

    by_row = np.empty_like(d)
    np.put_along_axis(by_row, nearest, d, 1)
    v = np.where(members, np.exp(-by_row), 0)
    v /= v.sum(axis=1, keepdims=True)
    v = np.asarray(_lists(nearest[:, :k2]) @ v) / min(k2, len(items))
    shared = np.minimum(v[0], v).sum(axis=1)
    jaccard = 1 - shared / (2 - shared)  # the sums of both are 1, so that of the maxima is 2 - shared
    result: NDArray[np.float64] = (1 - weight) * jaccard[1:] + weight * by_row[0, 1:]
    return result


def bytes_of(results: int) -> int:
    """The memory that comparing so many results with each other takes."""
    return 80 * (results + 1) ** 2


def _lists(nearest: NDArray[np.int64]) -> csr_array:
    """(n, n): 1 where the column stands in the list (n, k) of the row."""
    n, k = nearest.shape
    rows = np.repeat(np.arange(n), k)
    return csr_array((np.ones(n * k, np.int64), (rows, nearest.ravel())), (n, n))


def _reciprocal(nearest: NDArray[np.int64]) -> csr_array:
    lists = _lists(nearest)
    return lists * lists.T
