"""The nearest rows of the index to its own."""

from collections.abc import Iterator

import numpy as np

from landmarks.progress import tqdm
from landmarks.reranking._descriptors import Floats, together
from landmarks.searching.rankings import Block, nearest
from landmarks.searching.search import Rows

ROWS_AT_ONCE = 64


def neighbourhoods(
    index: Rows, distance: str, count: int, zeros_last: bool, memory: int, title: str
) -> Iterator[tuple[Floats, Block]]:
    """The rows of `index` (N, D), a few at a time (q, D), and the `count` others nearest to each.

    Quadratic in N; `title` is that of the progress bar, and `zeros_last` that of `top_k`. Half of `memory`
    (bytes) is for the search, half for the descriptors of all these.
    """
    size, dimensions = index.shape
    at_once = min(ROWS_AT_ONCE, together(memory // 2, dimensions, count))
    for start in tqdm(range(0, size, at_once), title, unit="block", leave=False, delay=1):
        own = index[start : start + at_once]
        itself = np.arange(start, start + len(own))
        yield own, nearest(own, itself, index, distance, min(count, size - 1), zeros_last, memory)
