"""`two`: the vote on a query's landmark, whose photos then come first."""

import numpy as np
from numpy.typing import NDArray

from landmarks.searching.rankings import NO_ROW, Block


def winners(votes: NDArray[np.intp]) -> NDArray[np.intp]:
    """The class with most of the `votes` (Q, classes), the lowest number among equal ones; -1 for none."""
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


def voted_first(block: Block, classes: NDArray[np.intp], voted: NDArray[np.intp]) -> Block:
    """The photos of the class `voted` (Q,) first; within both parts the order is kept.

    >>> found = Block(np.array([[2, 0, 1]]), np.array([[0.1, 0.2, 0.3]]))
    >>> voted_first(found, classes=np.array([0, 0, 1]), voted=np.array([0])).rows
    array([[0, 1, 2]])
    """
    missing = block.rows == NO_ROW
    others = classes[block.rows] != voted[:, None]
    order = np.argsort(np.where(missing, np.int8(2), others), axis=1, kind="stable")
    rows, distances = block
    return Block(np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1))
