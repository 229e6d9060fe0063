"""`dba`, database augmentation: each descriptor of the index is averaged with its nearest in the index."""

import tempfile
from pathlib import Path

import numpy as np

from landmarks.files import explained
from landmarks.reranking._descriptors import gathered
from landmarks.reranking._neighbours import neighbourhoods
from landmarks.reranking.query_expansion import expanded
from landmarks.searching.rankings import SEARCH_MEMORY
from landmarks.searching.search import Rows


def augmented(
    index: Rows,
    distance: str,
    neighbours: int,
    alpha: float,
    norm: int | None,
    zeros_last: bool,
    memory: int = SEARCH_MEMORY,
) -> Rows:
    """The index (N, D) with each row replaced by what `expanded` makes of it and its `neighbours`.

    Turcot and Lowe, "Better matching with fewer features: the selection of useful features in large
    database recognition problems", ICCV Workshops 2009, merge the features of photos that match. Gordo,
    Almazán, Revaud and Larlus, "End-to-end learning of deep visual representations for image retrieval",
    IJCV 2017, add up whole descriptors, as here, but weight them by rank; the cosine to a power is that of
    their later program (naver/deep-image-retrieval). alpha = 0 weights all alike.

    The neighbours are the nearest by `distance`; `norm` is that of `expanded`, and `zeros_last` that of
    `top_k`. Cost is quadratic in N, since the whole index is searched for each row. The search takes
    `memory` (bytes); the result lies in an unnamed temporary file. Raises `InputError` if the disk is full.
    """
    parts = neighbourhoods(index, distance, neighbours, zeros_last, memory, "augmenting the index")
    with explained(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        for own, (rows, distances) in parts:
            near = gathered(index, rows)
            file.write(expanded(own, near, np.isfinite(distances), alpha, norm).tobytes())
        file.flush()
        return np.memmap(file, np.float32, "r", shape=index.shape)
