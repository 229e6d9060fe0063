"""Scores of rankings against a ground truth, as Oxford5k and the revisited datasets define them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmarks.errors import InputError
from landmarks.photos.catalog import Photo, rows_by_path
from landmarks.photos.ground_truth import GRADES, GroundTruth, Query
from landmarks.scoring import measures
from landmarks.scoring.measures import Relevant, Report, Scores
from landmarks.searching.rankings import NO_ROW, SEARCH_MEMORY, Rankings


class Setup(NamedTuple):
    """Which grades are to be found; what neither is to be found nor counts is junk."""

    positives: frozenset[str]
    junk: frozenset[str]


def _setup(positives: str, junk: str) -> Setup:
    return Setup(frozenset(positives.split()), frozenset(junk.split()))


PROTOCOLS: Mapping[str, Mapping[str, Setup]] = {
    "oxford": {"oxford": _setup("good ok", "junk")},
    "revisited": {
        "easy": _setup("easy", "junk hard"),
        "medium": _setup("easy hard", "junk"),
        "hard": _setup("hard", "junk easy"),
    },
}
MAIN = {"oxford": "oxford", "revisited": "medium"}
"""The setup of each protocol that plots and contact sheets show."""

KAPPAS = (1, 5, 10)


def trapezoid_average_precision(relevant: Relevant, positives: NDArray[np.intp]) -> Scores:
    """The area (Q,) under the precision-recall curve, by trapezoids; `relevant` is without junk.

    AP = sum over the ranks j of (r(j) - r(j-1)) (p(j-1) + p(j)) / 2, with p(j) the precision and r(j) the
    recall of the first j results, p(0) = 1 and r(0) = 0. That is `compute_ap` of Oxford5k (Philbin et al.,
    CVPR 2007) and of the revisited datasets (Radenović et al., CVPR 2018). Recall is of `positives` (Q,),
    all that can be found, so a ranking that was cut short is not flattered. NaN where there are none.
    """
    precisions = relevant.cumsum(axis=1) / np.arange(1, relevant.shape[1] + 1)
    before = np.hstack([np.ones((len(relevant), 1)), precisions[:, :-1]])
    with np.errstate(invalid="ignore"):
        scores: Scores = ((before + precisions) / 2 * relevant).sum(axis=1) / positives
    return scores


def precision_at(relevant: Relevant, positives: NDArray[np.intp], k: int) -> Scores:
    """Precision (Q,) of the first `k` results, or of those up to the last positive if that comes earlier.

    The figure behind mP@k of Radenović et al., CVPR 2018; `relevant` is without junk. If the ranking lacks a
    positive, the last one comes after its end, and `k` stays. NaN where there are no positives.
    """
    last = relevant.shape[1] - relevant[:, ::-1].argmax(axis=1)
    cut = np.where(relevant.sum(axis=1) == positives, np.minimum(last, k), k)
    found = (relevant & (np.arange(relevant.shape[1]) < cut[:, None])).sum(axis=1)
    return np.where(positives > 0, found / cut, np.nan)


def without(relevant: Relevant, dropped: Relevant) -> Relevant:
    """`relevant` (Q, K) with the `dropped` results, of which none is relevant, moved behind all others."""
    return np.take_along_axis(relevant, np.argsort(dropped, axis=1, kind="stable"), 1)


@dataclass(frozen=True)
class Judged(Report):
    """A report whose average precision and curve are those of the protocol's `MAIN` setup.

    What is predicted, and whether that is right, goes by the folders of the photos, as do the other figures.
    """

    figures: dict[str, float | int]
    setups: dict[str, Scores]
    """The average precision (Q,) in each setup."""
    setup: Setup
    grades: list[dict[str, str]]
    """What counts for each query: grades by path."""

    def shows(self, query: int, image: Photo) -> bool | None:
        """Whether `image` is a positive of the query in the main setup; None if it is junk."""
        grade = self.grades[query].get(image.image_path, "")
        return None if grade in self.setup.junk else grade in self.setup.positives

    def metrics(self, resamples: int) -> dict[str, float | int]:
        """The figures of `reports/metrics.json`, each with its setup's name; intervals as in `Report`."""
        intervals: dict[str, float] = {}
        for name, scores in self.setups.items():
            if resamples and not np.isnan(scores).all():
                low, high = measures.bootstrap(scores, resamples)
                intervals |= {f"map_{name}_low": round(low, 6), f"map_{name}_high": round(high, 6)}
        return self.figures | intervals


def score(
    rankings: Rankings,
    truth: GroundTruth,
    protocol: str,
    queries_in_index: bool = False,
    reject_above: float | None = None,
    memory: int = SEARCH_MEMORY,
) -> Report:
    """Score re-ranked `rankings` by `protocol`: `classes`, for which see `scoring`, or one of `PROTOCOLS`.

    Of the photos that `truth` judges, queries count neither as positives nor as junk, since they are not in
    the index, unless `queries_in_index`. Then a query's own photo is junk if `truth` does not grade it. As
    many queries are scored at a time as `memory` (bytes) has room for.
    Raises `InputError` if the grades are those of another protocol, or nothing is to be found.
    """
    report = measures.score(rankings, reject_above, memory)
    if protocol == "classes":
        return report
    judged = judgements(rankings.queries, truth, protocol, queries_in_index)
    code = {grade: number for number, grade in enumerate(GRADES[protocol], 1)}
    row_of = rows_by_path(rankings.index)
    setups = PROTOCOLS[protocol]
    positives = {name: _count(judged, setup.positives) for name, setup in setups.items()}
    if not any(counts.any() for counts in positives.values()):
        raise InputError(
            "ground truth: no photo of the index is a positive of any query, nothing can be scored"
        )

    scores: dict[str, list[Scores]] = {name: [] for name in setups}
    curve = np.zeros(len(measures.RECALLS))
    codes = np.zeros(len(rankings.index), np.int8)  # of the grades that one query gives
    for part, block in rankings.blocks(memory, measures.BYTES_A_RESULT):
        found = np.zeros(block.rows.shape, np.int8)
        for query, grades in enumerate(judged[part]):
            judged_rows = {row_of[path]: code[grade] for path, grade in grades.items() if path in row_of}
            codes[[*judged_rows]] = [*judged_rows.values()]
            found[query] = codes[block.rows[query]]
            codes[[*judged_rows]] = 0
        found[block.rows == NO_ROW] = -1
        for name, setup in setups.items():
            relevant = np.isin(found, [code[grade] for grade in setup.positives])
            dropped = np.isin(found, [-1, *(code[grade] for grade in setup.junk)])
            relevant, total = without(relevant, dropped), positives[name][part]
            precisions = [precision_at(relevant, total, k) for k in KAPPAS]
            scores[name].append(np.stack([trapezoid_average_precision(relevant, total), *precisions]))
            if name == MAIN[protocol]:
                for of_query in measures.precision_recall(relevant, total):
                    curve += np.nan_to_num(of_query)

    figures: dict[str, float | int] = {}
    for name, setup in setups.items():
        counted = int(np.count_nonzero(positives[name]))
        if counted:
            average, *precisions = np.nanmean(np.hstack(scores[name]), axis=1)
            figures[f"map_{name}"] = round(float(average), 6)
            if protocol == "revisited":
                for k, precision in zip(KAPPAS, precisions, strict=True):
                    figures[f"mp_at_{k}_{name}"] = round(float(precision), 6)
        figures[f"queries_{name}"] = counted
        figures[f"positives_{name}"] = int(positives[name].sum())
        figures[f"junk_{name}"] = int(_count(judged, setup.junk).sum())
    figures |= {"queries": len(rankings.queries), "index": len(rankings.index)}

    main = MAIN[protocol]
    average_precisions = {name: np.hstack(parts)[0] for name, parts in scores.items()}
    curve /= max(1, int(np.count_nonzero(positives[main])))
    return Judged(
        **{**vars(report), "average_precision": average_precisions[main], "curve": curve},
        figures=figures,
        setups=average_precisions,
        setup=setups[main],
        grades=judged,
    )


def judgements(
    queries: Sequence[Photo], truth: GroundTruth, protocol: str, queries_in_index: bool
) -> list[dict[str, str]]:
    """What counts for each of `queries`: the grades of the photos that can be in the index, by path."""
    excluded = set() if queries_in_index else {query.image_path for query in truth}
    found = {grade for grades in truth.values() for grade in grades.values()}
    if not found <= set(GRADES[protocol]):
        raise InputError(
            f"evaluate.protocol: {protocol} scores by {', '.join(GRADES[protocol])}, the ground truth has "
            f"{', '.join(sorted(found))}; choose the other protocol, or make the ground truth for this one"
        )
    judged = []
    for photo in queries:
        try:
            grades = truth[Query(photo.image_path, photo.box)]
        except KeyError:
            raise InputError(
                f"ground truth: it does not have the query {photo.image_path}; run `dvc repro` again"
            ) from None
        grades = {path: grade for path, grade in grades.items() if path not in excluded}
        judged.append({photo.image_path: "junk", **grades} if queries_in_index else grades)
    return judged


def _count(judged: Sequence[Mapping[str, str]], grades: frozenset[str]) -> NDArray[np.intp]:
    return np.array([sum(grade in grades for grade in query.values()) for query in judged], np.intp)
