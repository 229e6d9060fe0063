"""Scores of rankings. In all of them `relevant` is bool (Q, K): the result is of the query's class."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarks.errors import InputError
from landmarks.photos.catalog import Photo, numbered
from landmarks.searching.rankings import NO_ROW, SEARCH_MEMORY, Block, Rankings, tell_need

Relevant = NDArray[np.bool_]
Scores = NDArray[np.float64]


def average_precision(relevant: Relevant, positives: NDArray[np.intp]) -> Scores:
    """Average precision (Q,): the mean of the precision at the rank of each relevant photo.

    It is divided by `positives` (Q,), all relevant photos of the index, so a ranking that was cut short
    is not flattered. NaN where there are none. See Manning, Raghavan and Schütze, Introduction to
    Information Retrieval, 2008, section 8.4.

    >>> average_precision(np.array([[True, False, True]]), np.array([2]))  # (1 / 1 + 2 / 3) / 2
    array([0.83333333])
    """
    ranks = np.arange(1, relevant.shape[1] + 1)
    precisions = relevant.cumsum(axis=1) / ranks
    with np.errstate(invalid="ignore"):
        scores: Scores = (precisions * relevant).sum(axis=1) / positives
    return scores


def precision_at(relevant: Relevant, k: int) -> Scores:
    """The number of relevant photos among the first `k` results, divided by `k`: (Q,).

    >>> precision_at(np.array([[True, False, True]]), 2)
    array([0.5])
    """
    scores: Scores = relevant[:, :k].sum(axis=1) / k
    return scores


def recall_at(relevant: Relevant, k: int) -> Scores:
    """Recall@k as in place recognition and metric learning: 1 if one of the first `k` is relevant."""
    return relevant[:, :k].any(axis=1).astype(float)


def reference_precision(relevant: Relevant) -> Scores:
    """The figure (Q,) of the original project: the mean of precision@1 to 5, 0 if the first is wrong.

    >>> reference_precision(np.array([[True, True, False, True, False], [False, True, True, True, True]]))
    array([0.80333333, 0.        ])
    """
    at = [precision_at(relevant, k) for k in range(1, 6)]
    return np.where(relevant[:, 0], np.mean(at, axis=0), 0.0)


NEAREST = 10
ROUNDING = 1e-5
"""How far distances may differ by rounding, as a share of the larger one, and still count as equal."""


def tied(block: Block) -> NDArray[np.bool_]:
    """Whether the first `NEAREST` results, three at least, are equally far from their query: (Q,).

    Their order is then that of the index, by path, and says nothing about the photos.
    """
    there = block.rows[:, :NEAREST] != NO_ROW
    distances = block.distances[:, :NEAREST].astype(float)
    low = distances.min(axis=1, where=there, initial=np.inf)
    high = distances.max(axis=1, where=there, initial=0)
    alike: NDArray[np.bool_] = (low >= (1 - ROUNDING) * high) & (there.sum(axis=1) > 2)
    return alike


def mean_by_class(scores: Scores, classes: NDArray[np.intp]) -> dict[int, float]:
    """The mean of `scores` (Q,) within each class of the queries that has one, NaN left out."""
    known = ~np.isnan(scores)
    return {int(c): float(scores[known & (classes == c)].mean()) for c in np.unique(classes[known])}


DRAWN_AT_ONCE = 1 << 20


def bootstrap(scores: Scores, resamples: int, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of the mean of `scores` (Q,), NaN left out, over resampled queries.

    As many queries as there are, are drawn with replacement, `resamples` times; the interval holds the
    middle `level` of their means. See Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 13. It says how much the mean would vary with other queries, the index being the same.
    """
    random = np.random.default_rng(seed)
    known = scores[~np.isnan(scores)]
    at_once = max(1, DRAWN_AT_ONCE // len(known))
    means = [
        known[random.integers(0, len(known), (min(at_once, resamples - start), len(known)))].mean(axis=1)
        for start in range(0, resamples, at_once)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


RECALLS = np.linspace(0, 1, 101)


def precision_recall(relevant: Relevant, positives: NDArray[np.intp]) -> Scores:
    """Interpolated precision (Q, 101) at `RECALLS`: the best precision at that recall or a higher one.

    0 where the ranking never reaches the recall. Queries without positives are NaN. See Manning,
    Raghavan and Schütze, 2008, section 8.4.
    """
    ranks = np.arange(1, relevant.shape[1] + 1)
    hits = relevant.cumsum(axis=1)
    best = np.maximum.accumulate((hits / ranks)[:, ::-1], axis=1)[:, ::-1]
    curves = np.full((len(relevant), len(RECALLS)), np.nan)
    for query, total in enumerate(positives):
        if total:
            # The epsilon keeps a recall of exactly r at r in spite of rounding.
            at = np.searchsorted(hits[query] / total, RECALLS - 1e-12)
            curves[query] = np.append(best[query], 0)[at]
    return curves


NO_CLASS = "(none)"


@dataclass(frozen=True)
class Report:
    """The scores of all queries; the arrays have one value per query.

    If the index has no photo of the class, `average_precision` is NaN and the other figures are 0.
    """

    classes: list[str]
    predicted: list[str]
    """`NO_CLASS` where the query resembles no landmark."""
    right: Scores
    """1 if the predicted class is the query's, or if it is none and the index has none of that class."""
    average_precision: Scores
    reference_precision: Scores
    precision_at_1: Scores
    precision_at_5: Scores
    recall_at_5: Scores
    curve: Scores
    """(101,): precision at `RECALLS`, the mean over the queries."""
    positives: int
    """Relevant photos of the index, summed over the queries."""
    index: int
    tied: NDArray[np.bool_]
    """Whether the first results are in no order, see `tied`."""

    def shows(self, query: int, image: Photo) -> bool | None:
        """Whether `image` is a right result of the query; None where it does not count."""
        return image.class_image == self.classes[query]

    def metrics(self, resamples: int) -> dict[str, float | int]:
        """The figures of `reports/metrics.json`; the interval of map by `resamples`, 0 for none.

        Raises `InputError` if nothing can be scored.
        """
        if not self.positives:
            raise InputError(
                "rankings: the index has no photo of any query's landmark, so there is nothing to score; "
                "raise split.index"
            )
        by_class = mean_by_class(self.reference_precision, numbered(self.classes)[1])
        interval = {}
        if resamples:
            interval["map_low"], interval["map_high"] = bootstrap(self.average_precision, resamples)
        figures = {
            "accuracy": self.right.mean(),
            "map": np.nanmean(self.average_precision),
            **interval,
            "map_reference": np.mean(list(by_class.values())),
            "precision_at_1": self.precision_at_1.mean(),
            "precision_at_5": self.precision_at_5.mean(),
            "recall_at_5": self.recall_at_5.mean(),
        }
        rounded = {name: round(float(value), 6) for name, value in figures.items()}
        counts = {"queries": len(self.classes), "index": self.index, "positives": self.positives}
        return {**rounded, **counts}


BYTES_A_RESULT = 80
"""The memory for a result of a query that is scored."""


def score(rankings: Rankings, reject_above: float | None, memory: int = SEARCH_MEMORY) -> Report:
    """Score re-ranked `rankings`, as many queries at a time as `memory` (bytes) has room for.

    A query whose nearest photo is farther than `reject_above` is predicted to be no landmark.
    """
    tell_need(BYTES_A_RESULT * rankings.rows.shape[1], memory)
    truth = [photo.class_image for photo in rankings.queries]
    names, numbers = numbered([*truth, *(photo.class_image for photo in rankings.index)])
    query_classes, index_classes = np.split(numbers, [len(truth)])
    indexed = {photo.image_path for photo in rankings.index}
    own = np.array([photo.image_path in indexed for photo in rankings.queries], np.intp)
    positives = np.bincount(index_classes, minlength=len(names))[query_classes] - own

    columns: list[tuple[NDArray[Any], ...]] = []
    curve = np.zeros(len(RECALLS))
    for part, block in rankings.blocks(memory, BYTES_A_RESULT):
        relevant = (index_classes[block.rows] == query_classes[part, None]) & (block.rows != NO_ROW)
        columns.append(
            (
                block.distances.min(axis=1).astype(float),
                average_precision(relevant, positives[part]),
                reference_precision(relevant),
                precision_at(relevant, 1),
                precision_at(relevant, 5),
                recall_at(relevant, 5),
                tied(block),
            )
        )
        for of_query in precision_recall(relevant, positives[part]):
            curve += np.nan_to_num(of_query)  # one by one, so that the sum does not depend on the blocks
    nearest, *scores = (np.concatenate(column) for column in zip(*columns, strict=True))
    average, reference, first, five, recall, alike = scores

    accepted = nearest <= (np.inf if reject_above is None else reject_above)
    predicted = [
        name if name and near else NO_CLASS for name, near in zip(rankings.predicted, accepted, strict=True)
    ]
    answers = [name if total else NO_CLASS for name, total in zip(truth, positives, strict=True)]
    right = np.array([a == b for a, b in zip(predicted, answers, strict=True)], float)
    curve /= max(1, int(np.count_nonzero(positives)))
    counts = int(positives.sum()), len(rankings.index)
    return Report(truth, predicted, right, average, reference, first, five, recall, curve, *counts, alike)
