"""`diffusion`: similarity to the query flows along a graph of near neighbours in the index."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import cg

from landmarks.reranking._descriptors import cosines, gathered
from landmarks.reranking._neighbours import neighbourhoods
from landmarks.searching.rankings import SEARCH_MEMORY
from landmarks.searching.search import Rows


def graph(
    index: Rows, distance: str, neighbours: int, gamma: float, zeros_last: bool, memory: int = SEARCH_MEMORY
) -> csr_array:
    """The affinities of the mutual nearest neighbours of the index (N, D): float64 (N, N), sparse.

    Iscen, Tolias, Avrithis, Furon and Chum, "Efficient diffusion on region manifolds: recovering small
    objects with compact CNN representations", CVPR 2017: with s(x, z) = max(cos(x, z), 0) ** gamma,

        A_ij = min(s_k(x_i | x_j), s_k(x_j | x_i)),  s_k(x | z) = s(x, z) where x in NN_k(z), else 0

    and A_ii = 0. The neighbours of a row are the nearest by `distance`, itself not counted, as it is in the
    authors' code; whichever that is, s is of the cosine. Cost is quadratic in N. The search takes `memory`
    (bytes), the graph `graph_bytes` besides.
    """
    values, columns, lengths = [], [], []
    parts = neighbourhoods(index, distance, neighbours, zeros_last, memory, "drawing the graph")
    for own, (rows, distances) in parts:
        near = cosines(own, gathered(index, rows)).clip(min=0) ** gamma
        values.append(np.where(np.isfinite(distances), near, 0).ravel())
        columns.append(rows.ravel())
        lengths += [rows.shape[1]] * len(rows)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.concatenate(values), np.concatenate(columns), ends
    directed = csr_array(entries, (len(lengths), len(lengths)))
    return csr_array(directed.minimum(directed.T))


def graph_bytes(size: int, neighbours: int) -> int:
    """The memory that the graph of an index of `size` takes while it is made."""
    return 100 * size * neighbours


def reached(
    affinity: csr_array, rows: NDArray[np.integer[Any]], seeds: NDArray[np.float64], alpha: float
) -> NDArray[np.float64]:
    """How much of the query reaches each of the `rows` (n,) of the index: (n,), the higher the nearer.

    Iscen et al., CVPR 2017: f = (I - alpha S)^-1 y by conjugate gradients, S = D^-1/2 A D^-1/2, where
    A is the `affinity` among `rows` alone (the paper's truncation, which Yang, Hinami, Matsui, Ly and
    Satoh, "Efficient image retrieval via decoupling diffusion into online and offline processing", AAAI
    2019, call early) and D the sums of its rows. `seeds` (n,): y, s(x, q) of the neighbours x of the query,
    0 elsewhere. The factor 1 - alpha, which does not change the order, is left out. The paper truncates only
    large indexes of regions, to 10,000, and stops after 20 iterations; here the rows are the shortlist, and
    the system is solved.
    """
    among = affinity[rows][:, rows]
    degrees = np.asarray(among.sum(axis=1))
    scale = diags_array(np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0))
    f: NDArray[np.float64] = cg(eye_array(len(rows)) - alpha * (scale @ among @ scale), seeds, rtol=1e-8)[0]
    return f
