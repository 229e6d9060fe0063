from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats
from sklearn.metrics import average_precision_score

from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.scoring import measures
from landmarks.searching import rankings
from landmarks.searching.rankings import Block, Rankings
from landmarks.searching.search import top_k

relevances = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=25))


def results(*marks):
    """`results("x.", "..")`: two rankings of two, x where relevant."""
    return np.array([[mark == "x" for mark in ranking] for ranking in marks])


def precision(relevant, rank):
    return sum(relevant[:rank]) / rank


@settings(deadline=None, max_examples=40)
@given(relevances)
def test_average_precision_of_a_full_ranking_is_scikit_learns(relevant):
    relevant = relevant[relevant.any(axis=1)]
    nearness = -np.arange(relevant.shape[1])
    expected = [average_precision_score(row, nearness) for row in relevant]
    found = measures.average_precision(relevant, relevant.sum(axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("ranking", "positives", "expected"),
    [
        ("x.x", 2, (1 + 2 / 3) / 2),
        ("xxx", 3, 1),
        ("..x", 1, 1 / 3),
        ("...", 4, 0),
        ("x.x", 4, (1 + 2 / 3) / 4),
        ("xxx", 30, 0.1),
    ],
)
def test_average_precision_is_divided_by_all_positives_of_the_index(ranking, positives, expected):
    found = measures.average_precision(results(ranking), np.array([positives]))
    assert found.tolist() == pytest.approx([expected])


@pytest.mark.filterwarnings("error")
def test_without_positives_average_precision_and_curve_are_nan_and_the_others_unharmed():
    relevant, positives = results("..", "x."), np.array([0, 1])
    np.testing.assert_array_equal(measures.average_precision(relevant, positives), [np.nan, 1])
    curves = measures.precision_recall(relevant, positives)
    assert np.isnan(curves[0]).all()
    assert (curves[1] == 1).all()


@pytest.mark.parametrize(
    ("k", "precisions", "recalls"),
    [
        (1, [1, 0, 0], [1, 0, 0]),
        (3, [2 / 3, 1 / 3, 0], [1, 1, 0]),
        (5, [2 / 5, 3 / 5, 0], [1, 1, 0]),
        (10, [2 / 10, 3 / 10, 0], [1, 1, 0]),
    ],
)
def test_precision_and_recall_at_k(k, precisions, recalls):
    relevant = results("x.x..", ".x.xx", ".....")
    assert measures.precision_at(relevant, k).tolist() == pytest.approx(precisions)
    assert measures.recall_at(relevant, k).tolist() == recalls


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        ("xxxxx", 1),
        ("xxxxx....", 1),
        ("x....", (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5),
        ("x.x.xx", (1 + 1 / 2 + 2 / 3 + 2 / 4 + 3 / 5) / 5),
        (".xxxx", 0),
        ("x", (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5),
    ],
)
def test_reference_precision_is_the_mean_of_five_or_zero_if_the_first_is_wrong(ranking, expected):
    assert measures.reference_precision(results(ranking)).tolist() == pytest.approx([expected])


def test_mean_by_class_leaves_out_nan_and_classes_of_nothing_else():
    scores = np.array([1, 0, 0.25, np.nan, 0.75, np.nan])
    classes = np.array([4, 4, 1, 1, 1, 2])
    assert measures.mean_by_class(scores, classes) == {1: 0.5, 4: 0.5}


def interpolated(relevant, positives):
    """The best precision where at least j % of the positives were found, in whole numbers."""
    hits = np.cumsum(relevant).tolist()
    return [
        max(
            (hit / rank for rank, hit in enumerate(hits, 1) if 100 * hit >= percent * positives),
            default=0,
        )
        for percent in range(101)
    ]


@settings(deadline=None)
@given(relevances, st.integers(0, 80))
def test_the_curve_is_the_best_precision_at_that_recall_or_a_higher_one(relevant, unseen):
    positives = relevant.sum(axis=1) + unseen
    expected = [
        interpolated(row, n) if n else [np.nan] * 101 for row, n in zip(relevant, positives, strict=True)
    ]
    np.testing.assert_allclose(measures.precision_recall(relevant, positives), expected, rtol=1e-12)


@pytest.mark.parametrize("positives", [7, 10, 25, 29, 50, 100])
def test_rounding_does_not_move_a_step_of_the_curve(positives):
    relevant = np.tile([True, False], positives)[None]
    found = measures.precision_recall(relevant, np.array([positives]))
    np.testing.assert_allclose(found, [interpolated(relevant[0], positives)])


@st.composite
def reranked(draw):
    """Rankings, as a store holds them, of queries that may be in the index or of a class that is not."""
    classes = st.sampled_from(["b", "a,b", "001", "é", "(x)"])
    index = [
        Photo(f"i{row}", name) for row, name in enumerate(draw(st.lists(classes, min_size=1, max_size=12)))
    ]
    others = [
        Photo(f"q{row}", name) for row, name in enumerate(draw(st.lists(classes, min_size=1, max_size=6)))
    ]
    queries = draw(
        st.permutations([*others, *draw(st.lists(st.sampled_from(index), max_size=3, unique=True))])
    )
    depth = draw(st.integers(1, len(index)))
    rows, distances, predicted = [], [], []
    for query in queries:
        ranking = [row for row in draw(st.permutations(range(len(index)))) if index[row] != query][:depth]
        # Out of order, as after re-ranking; quarters, so that some equal the threshold.
        away = draw(st.lists(st.integers(0, 6), min_size=len(ranking), max_size=len(ranking)))
        padding = depth - len(ranking)
        rows.append([*ranking, *[-1] * padding])
        distances.append([*[quarters / 4 for quarters in away], *[np.inf] * padding])
        predicted.append(draw(classes) if ranking else "")
    return Rankings(
        np.array(rows, np.int32),
        np.array(distances, np.float32),
        queries,
        index,
        predicted,
        {"distance": "L1"},
    )


def plainly(ranked, reject_above):
    """The scores of each query and the metrics, by loops, from the definitions."""
    per_query = []
    for query, rows, distances, voted in zip(
        ranked.queries, ranked.rows.tolist(), ranked.distances.tolist(), ranked.predicted, strict=True
    ):
        findable = [photo for photo in ranked.index if photo.image_path != query.image_path]
        positives = sum(photo.class_image == query.class_image for photo in findable)
        relevant = [row >= 0 and ranked.index[row].class_image == query.class_image for row in rows]
        rejected = not voted or (reject_above is not None and min(distances) > reject_above)
        predicted = None if rejected else voted
        at = [precision(relevant, rank) for rank in range(1, len(rows) + 1)]
        first_five = [sum(relevant[:rank]) / rank for rank in range(1, 6)]
        per_query.append(
            {
                "class": query.class_image,
                "positives": positives,
                "predicted": predicted,
                "right": predicted == (query.class_image if positives else None),
                "ap": sum(p for p, r in zip(at, relevant, strict=True) if r) / positives
                if positives
                else None,
                "reference": fmean(first_five) if relevant[0] else 0,
                "p1": first_five[0],
                "p5": first_five[4],
                "r5": any(relevant[:5]),
                "curve": interpolated(relevant, positives) if positives else None,
            }
        )
    by_class = {}
    for scores in per_query:
        by_class.setdefault(scores["class"], []).append(scores["reference"])
    metrics = {
        "accuracy": fmean(s["right"] for s in per_query),
        "map_reference": fmean(fmean(values) for values in by_class.values()),
        "precision_at_1": fmean(s["p1"] for s in per_query),
        "precision_at_5": fmean(s["p5"] for s in per_query),
        "recall_at_5": fmean(s["r5"] for s in per_query),
        "queries": len(per_query),
        "index": len(ranked.index),
        "positives": sum(s["positives"] for s in per_query),
    }
    if known := [s["ap"] for s in per_query if s["ap"] is not None]:
        metrics["map"] = fmean(known)
    return per_query, metrics


@settings(deadline=None, max_examples=150)
@given(reranked(), st.none() | st.integers(0, 6).map(lambda quarters: quarters / 4), st.integers(1, 10))
def test_scores_are_those_of_plain_loops(ranked, reject_above, at_once):
    per_query, metrics = plainly(ranked, reject_above)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "QUERIES_AT_ONCE", at_once)
        if "map" not in metrics:
            with pytest.raises(InputError, match="no photo of any query's landmark"):
                measures.score(ranked, reject_above).metrics(0)
            return
        report = measures.score(ranked, reject_above)

    assert report.classes == [s["class"] for s in per_query]
    assert report.predicted == [s["predicted"] or measures.NO_CLASS for s in per_query]
    assert report.right.tolist() == [s["right"] for s in per_query]
    aps = [np.nan if s["ap"] is None else s["ap"] for s in per_query]
    np.testing.assert_allclose(report.average_precision, aps, rtol=1e-12)
    curves = [s["curve"] for s in per_query if s["curve"]]
    np.testing.assert_allclose(report.curve, np.mean(curves, axis=0) if curves else np.zeros(101))
    found = report.metrics(0)
    assert found == pytest.approx(metrics, abs=5.1e-7)
    assert found.keys() == metrics.keys()


INDEX = [Photo("i0", "a"), Photo("i1", "b"), Photo("i2", "b")]


def of_queries(*queries):
    """Each query is (class, distances to the three photos of `INDEX`, voted class)."""
    order = [sorted(range(3), key=lambda row, d=distances: d[row]) for _, distances, _ in queries]
    return Rankings(
        np.array(order, np.int32),
        np.array([sorted(distances) for _, distances, _ in queries], np.float32),
        [Photo(f"q{number}", name) for number, (name, _, _) in enumerate(queries)],
        INDEX,
        [voted for _, _, voted in queries],
        {},
    )


@pytest.mark.parametrize(
    ("reject_above", "predicted", "right"),
    [
        (None, ["a", "b", "b", "a"], [1, 0, 0, 0]),
        (0.5, ["a", "b", "(none)", "a"], [1, 0, 1, 0]),
        (0.25, ["(none)", "b", "(none)", "a"], [0, 0, 1, 0]),
        (0.1, ["(none)", "(none)", "(none)", "(none)"], [0, 0, 1, 1]),
    ],
)
def test_a_far_query_is_no_landmark_which_is_right_where_the_index_has_none_of_its_class(
    reject_above, predicted, right
):
    ranked = of_queries(
        ("a", [0.5, 0.75, 1], "a"),
        ("a", [1, 0.25, 0.5], "b"),
        ("elsewhere", [2, 0.75, 0.75], "b"),
        ("elsewhere", [0.25, 2, 2], "a"),
    )
    report = measures.score(ranked, reject_above)
    assert report.predicted == predicted
    assert report.right.tolist() == right
    assert report.metrics(0)["accuracy"] == fmean(right)


def test_the_nearest_distance_is_not_always_the_first_after_reranking():
    ranked = of_queries(("b", [0.25, 0.75, 1], "b"))
    ranked.rows[:] = [[1, 2, 0]]
    ranked.distances[:] = [[0.75, 1, 0.25]]
    assert measures.score(ranked, 0.5).predicted == ["b"]


@pytest.mark.parametrize("drawn_at_once", [1, 300, 1 << 20])
def test_the_interval_is_scipys_percentile_bootstrap(monkeypatch, drawn_at_once):
    monkeypatch.setattr(measures, "DRAWN_AT_ONCE", drawn_at_once)
    scores = np.random.default_rng(1).beta(2, 1, 37)
    expected = stats.bootstrap(
        (scores,), np.mean, n_resamples=400, method="percentile", rng=np.random.default_rng(0)
    )
    with_unknown = np.insert(scores, [0, 9, 37], np.nan)
    found = measures.bootstrap(with_unknown, 400)
    np.testing.assert_allclose(found, expected.confidence_interval, rtol=1e-12)


def test_the_interval_holds_the_mean_of_new_queries_as_often_as_it_says():
    random = np.random.default_rng(0)
    intervals = [measures.bootstrap(random.beta(2, 1, 60), 300) for _ in range(400)]
    held = np.mean([low <= 2 / 3 <= high for low, high in intervals])
    assert 0.9 < held < 0.98


def test_the_interval_of_map_is_among_the_metrics_unless_switched_off():
    ranked = of_queries(("b", [1, 2, 3], "b"), ("b", [3, 1, 2], "b"), ("a", [2, 1, 3], "b"))
    report = measures.score(ranked, None)
    metrics = report.metrics(200)
    low, high = measures.bootstrap(report.average_precision, 200)
    assert (metrics["map_low"], metrics["map_high"]) == (round(low, 6), round(high, 6))
    assert metrics["map_low"] < metrics["map"] < metrics["map_high"]
    assert {*metrics} - {*report.metrics(0)} == {"map_low", "map_high"}


def test_metrics_worked_by_hand():
    ranked = of_queries(("b", [1, 2, 3], "b"), ("b", [3, 1, 2], "b"), ("a", [2, 1, 3], "b"))
    # b: .xx and xx., a: .x.
    assert measures.score(ranked, None).metrics(0) == {
        "accuracy": 0.666667,
        "map": round(((1 / 2 + 2 / 3) / 2 + 1 + 1 / 2) / 3, 6),
        "map_reference": round((((1 + 1 + 2 / 3 + 2 / 4 + 2 / 5) / 5) / 2 + 0) / 2, 6),
        "precision_at_1": 0.333333,
        "precision_at_5": round((2 / 5 + 2 / 5 + 1 / 5) / 3, 6),
        "recall_at_5": 1,
        "queries": 3,
        "index": 3,
        "positives": 5,
    }


def block_of(distances, rows=None):
    distances = np.array(distances, np.float32)
    rows = np.broadcast_to(np.arange(distances.shape[1]), distances.shape) if rows is None else rows
    return Block(np.array(rows, np.int32), distances)


COLLAPSED = {
    "all described alike": [[0.0] * 12],
    "queries unlike the index, which is alike": [[0.7] * 12, [1.2] * 12],
    "equal but for rounding": [np.float32(1.3) * (1 + 1e-6 * np.random.default_rng(0).random(12))],
    "without a keypoint": [[np.inf] * 12],
    "the first ten, the others not": [[0.0] * 10 + [0.5, 0.9]],
    "three of three": [[2.0] * 3],
}


@pytest.mark.parametrize("distances", COLLAPSED.values(), ids=COLLAPSED)
def test_results_that_are_equally_far_are_tied(distances):
    block = block_of(distances)
    assert measures.tied(block).all()
    random = np.random.default_rng(1)
    shuffled = block.distances[:, random.permutation(min(10, block.distances.shape[1]))]  # as re-ranked
    assert measures.tied(block_of(shuffled)).all()


HEALTHY = {
    "two copies of the nearest photo": [[0.1, 0.1, 0.4, 0.5]],
    "nine of ten": [[0.1] * 9 + [0.2] * 3],
    "one result": [[0.5]],
    "two copies and nothing else": [[0.5, 0.5]],
    "one found, the others without a keypoint": [[0.5, np.inf, np.inf, np.inf]],
    "cosines close to one": [1e-6 * np.arange(1, 13)],
}


@pytest.mark.parametrize("distances", HEALTHY.values(), ids=HEALTHY)
def test_rankings_that_say_something_are_not_tied(distances):
    assert not measures.tied(block_of(distances)).any()


def test_places_without_a_result_tie_with_nothing():
    assert not measures.tied(block_of([[0.5, 0.5, np.inf, np.inf]], [[3, 4, -1, -1]])).any()
    assert measures.tied(block_of([[0.5, 0.5, 0.5, np.inf]], [[3, 4, 5, -1]])).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("distance", ["L1", "L2", "L3"])
@pytest.mark.parametrize(("dimensions", "spread"), [(2, 1.0), (64, 1.0), (1280, 1e-3), (1280, 1.0)])
def test_no_ranking_of_descriptors_that_differ_is_tied(seed, distance, dimensions, spread):
    random = np.random.default_rng(seed)
    index, queries = (
        (1 + spread * random.random((rows, dimensions))).astype(np.float32) for rows in (2000, 20)
    )
    distances, rows = top_k(queries, index, distance, 10)
    assert not measures.tied(Block(rows.astype(np.int32), distances)).any()


def test_where_photos_are_described_alike_the_first_landmark_by_path_wins():
    """What the README says of results that are equally far."""
    names = ["a", "b", "c", "d"]
    index = [Photo(f"{name}/{number}", name) for name in names for number in range(3)]
    vectors = np.full((16, 8), 0.125, np.float32)
    distances, rows = top_k(vectors[:4], vectors[:12], "L1", 12)
    queries = [Photo(f"{name}/q", name) for name in names]
    report = measures.score(Rankings(rows, distances, queries, index, ["a"] * 4, {}), None)
    assert report.tied.all()
    assert report.average_precision[0] == 1
    assert report.average_precision[3] == pytest.approx((1 / 10 + 2 / 11 + 3 / 12) / 3)


@pytest.mark.parametrize(("depth", "needed"), [(13_107, 0), (13_108, 2), (14_000, 2), (30_000, 3)])
def test_a_ranking_that_is_more_than_the_memory_is_told(caplog, depth, needed):
    rows = np.arange(depth, dtype=np.int32)[None]
    ranked = Rankings(rows, rows.astype(np.float32), [Photo("q", "a")], [Photo("i", "a")] * depth, ["a"], {})
    measures.score(ranked, None, 1 << 20)
    told = (
        "retrieve.memory: 1 MB are not kept to, since a query with its results takes more; "
        f"set it to {needed}, or lower retrieve.depth"
    )
    assert [record.getMessage() for record in caplog.records] == [told] * (needed > 0)
