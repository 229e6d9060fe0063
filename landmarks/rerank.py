"""Re-ranking: the vote on a query's landmark, and orders other than the retrieved one."""

import numpy as np
from numpy.typing import NDArray

from landmarks.rankings import NO_ROW, Block


def vote(block: Block, classes: NDArray[np.intp], depth: int) -> NDArray[np.intp]:
    """The class of most of the first `depth` results of each query; of equal ones the lowest number.

    Returns (Q,), -1 where nothing votes; see `count_votes`.
    """
    votes = count_votes(block, classes, depth)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def count_votes(block: Block, classes: NDArray[np.intp], depth: int) -> NDArray[np.intp]:
    """How many of the first `depth` results of each query are of each class: (Q, classes).

    Results infinitely far have no vote. `classes`: (N,) a number for each row of the index.
    """
    first = block.rows[:, :depth]
    votes = np.zeros((len(first), int(classes.max()) + 1), np.intp)
    queries, places = np.nonzero(np.isfinite(block.distances[:, :depth]))
    np.add.at(votes, (queries, classes[first[queries, places]]), 1)
    return votes


def rerank(
    block: Block, method: str, classes: NDArray[np.intp], vote_depth: int
) -> tuple[Block, NDArray[np.intp]]:
    """Re-rank `block` by `method`; also returns the class (Q,) voted from the ranking as retrieved.

    `one`: the ranking as it is. `two`: the photos of the voted class come first, the order otherwise
    kept in both parts.
    """
    predicted = vote(block, classes, vote_depth)
    if method == "one":
        return block, predicted
    missing = block.rows == NO_ROW
    others = classes[block.rows] != predicted[:, None]
    order = np.argsort(np.where(missing, 2, others), axis=1, kind="stable")
    rows, distances = block
    return Block(np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1)), predicted
