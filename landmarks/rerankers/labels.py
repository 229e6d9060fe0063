"""`two`: the vote on a query's landmark, whose photos then come first."""

import numpy as np
from numpy.typing import NDArray

from landmarks.rankings import NO_ROW, Block


def vote(block: Block, classes: NDArray[np.intp], depth: int) -> NDArray[np.intp]:
    """The class of most of the first `depth` results of each query; of equal ones the lowest number.

    Results infinitely far have no vote. `classes`: (N,) a number for each row of the index. Returns
    (Q,), -1 where nothing votes.
    """
    first = block.rows[:, :depth]
    votes = np.zeros((len(first), int(classes.max()) + 1), np.intp)
    queries, places = np.nonzero(np.isfinite(block.distances[:, :depth]))
    np.add.at(votes, (queries, classes[first[queries, places]]), 1)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def voted_first(block: Block, classes: NDArray[np.intp], voted: NDArray[np.intp]) -> Block:
    """The photos of the class `voted` (Q,) first, the order otherwise kept in both parts."""
    missing = block.rows == NO_ROW
    others = classes[block.rows] != voted[:, None]
    order = np.argsort(np.where(missing, 2, others), axis=1, kind="stable")
    rows, distances = block
    return Block(np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1))
