"""The protocols against their published definitions, stated here by sets and loops."""

import tracemalloc
from itertools import pairwise
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.photos.ground_truth import Query
from landmarks.scoring import protocols
from landmarks.searching import rankings
from landmarks.searching.rankings import Rankings


def area_under_curve(ranked, positives, junk):
    """Philbin et al., CVPR 2007: the area under the precision-recall curve of the list without junk.

    The curve starts at recall 0 and precision 1, has a point after each photo, and is straight in between.
    """
    kept = [name for name in ranked if name not in junk]
    points = [(0.0, 1.0)]
    for length in range(1, len(kept) + 1):
        found = sum(name in positives for name in kept[:length])
        points.append((found / len(positives), found / length))
    return sum((r - r0) * (p + p0) / 2 for (r0, p0), (r, p) in pairwise(points))


def precision_at(ranked, positives, junk, k):
    """Radenović et al., CVPR 2018: precision of the first k, or up to the last positive."""
    kept = [name for name in ranked if name not in junk]
    if positives <= set(kept):
        k = min(k, max(kept.index(name) for name in positives) + 1)
    return sum(name in positives for name in kept[:k]) / k


WAYS = {
    "oxford": {"oxford": ({"good", "ok"}, {"junk"})},
    "revisited": {
        "easy": ({"easy"}, {"junk", "hard"}),
        "medium": ({"easy", "hard"}, {"junk"}),
        "hard": ({"hard"}, {"junk", "easy"}),
    },
}


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefghij"), min_size=1), st.sets(st.sampled_from("abcdefgh"), min_size=1))
def test_average_precision_is_the_area_under_the_curve_even_where_a_photo_is_ranked_twice(ranked, positives):
    relevant = np.array([[name in positives for name in ranked]])
    found = protocols.trapezoid_average_precision(relevant, np.array([len(positives)]))
    assert found[0] == pytest.approx(area_under_curve(ranked, positives, set()))


@st.composite
def judged(draw, protocol):
    """Rankings of a few photos, perhaps cut short, and what the protocol's grades are of some of them."""
    index = [Photo(f"i{row}", "c") for row in range(draw(st.integers(1, 12)))]
    boxes = st.none() | st.just((1.0, 2.0, 3.5, 4.0))
    names = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    queries = [Photo(f"q{name}", draw(st.sampled_from("cd")), draw(boxes)) for name in names]
    graded = [photo.image_path for photo in index] + ["broken", "q0"]
    grades = st.sampled_from(protocols.GRADES[protocol])
    of_all = draw(st.none() | grades)
    truth = {
        Query(photo.image_path, photo.box): dict.fromkeys(graded, of_all)
        if of_all
        else draw(st.dictionaries(st.sampled_from(graded), grades))
        for photo in queries
    }
    depth = draw(st.integers(1, len(index)))
    rows = [draw(st.permutations(range(len(index))))[:depth] for _ in queries]
    for ranking in rows:
        padding = draw(st.integers(0, depth - 1))
        ranking[depth - padding :] = [-1] * padding
    distances = np.where(np.array(rows) < 0, np.inf, 1)
    return Rankings(
        np.array(rows, np.int32), distances.astype(np.float32), queries, index, ["c"] * len(rows), {}
    ), truth


@pytest.mark.parametrize("protocol", ["oxford", "revisited"])
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_the_figures_are_those_of_the_published_definitions(protocol, data):
    ranked, truth = data.draw(judged(protocol))
    excluded = {query.image_path for query in truth}
    expected = {"queries": len(ranked.queries), "index": len(ranked.index)}
    for setup, (good, bad) in WAYS[protocol].items():
        scores = []
        counts = {"queries": 0, "positives": 0, "junk": 0}
        for query, rows in zip(ranked.queries, ranked.rows.tolist(), strict=True):
            grades = truth[Query(query.image_path, query.box)]
            positives, junk = (
                {name for name, grade in grades.items() if grade in wanted and name not in excluded}
                for wanted in (good, bad)
            )
            counts["junk"] += len(junk)
            if positives:
                names = [ranked.index[row].image_path for row in rows if row >= 0]
                counts["queries"] += 1
                counts["positives"] += len(positives)
                at = [precision_at(names, positives, junk, k) for k in (1, 5, 10)]
                scores.append([area_under_curve(names, positives, junk), *at])
        expected |= {f"{name}_{setup}": count for name, count in counts.items()}
        if scores:
            means = [fmean(column) for column in zip(*scores, strict=True)]
            kinds = ["map", "mp_at_1", "mp_at_5", "mp_at_10"][: 4 if protocol == "revisited" else 1]
            expected |= {f"{kind}_{setup}": mean for kind, mean in zip(kinds, means, strict=False)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "QUERIES_AT_ONCE", data.draw(st.integers(1, 3)))
        if not any(name.startswith("map") for name in expected):
            with pytest.raises(InputError, match="no photo of the index is a positive of any query"):
                protocols.score(ranked, truth, protocol)
            return
        found = protocols.score(ranked, truth, protocol).metrics(0)
    assert found == pytest.approx(expected, abs=5.1e-7)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 3), st.data())
def test_a_ranking_that_is_cut_short_is_never_flattered(ranking, never_found, data):
    whole = np.array([ranking])
    positives = whole.sum(axis=1) + never_found
    cut = whole[:, : data.draw(st.integers(1, len(ranking)))]
    if positives[0]:
        assert (
            protocols.trapezoid_average_precision(cut, positives)
            <= protocols.trapezoid_average_precision(whole, positives) + 1e-12
        )
        for k in (1, 5, 10):
            assert protocols.precision_at(cut, positives, k) <= protocols.precision_at(whole, positives, k)


WHOLE = Query("query", None)


def ranked_by_hand(*names):
    """One query, and an index that is ranked in its own order."""
    index = [Photo(name, "c") for name in names]
    rows = np.arange(len(index), dtype=np.int32)[None]
    return Rankings(rows, rows.astype(np.float32), [Photo("query", "c")], index, ["c"], {})


def test_oxford_worked_by_hand():
    ranked = ranked_by_hand("junk", "good", "other", "ok", "another")
    grades = {"junk": "junk", "good": "good", "ok": "ok", "lost": "ok"}
    report = protocols.score(ranked, {WHOLE: grades}, "oxford")
    # Without junk: good, other, ok. Three positives: a third each of (1 + 1) / 2 and (1/2 + 2/3) / 2.
    assert report.metrics(0) == {
        "map_oxford": round((1 + 7 / 12) / 3, 6),
        "queries_oxford": 1,
        "positives_oxford": 3,
        "junk_oxford": 1,
        "queries": 1,
        "index": 5,
    }
    assert [report.shows(0, photo) for photo in ranked.index] == [None, True, False, True, False]
    # Recall 1/3 at precision 1, 2/3 at 2/3, never more.
    assert report.curve[[0, 33, 34, 66, 67]].tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3, 0])


def test_revisited_worked_by_hand():
    ranked = ranked_by_hand("h1", "junk", "easy", "other", "h2")
    grades = {"easy": "easy", "h1": "hard", "h2": "hard", "junk": "junk"}
    metrics = protocols.score(ranked, {WHOLE: grades}, "revisited").metrics(0)
    assert metrics == pytest.approx(
        {
            # Easy, without junk and hard: easy, other.
            "map_easy": 1,
            "mp_at_1_easy": 1,
            "mp_at_5_easy": 1,
            "mp_at_10_easy": 1,
            "queries_easy": 1,
            "positives_easy": 1,
            "junk_easy": 3,
            # Medium, without junk: h1, easy, other, h2; a third each of 1, 1 and (2/3 + 3/4) / 2.
            "map_medium": (2 + 17 / 24) / 3,
            "mp_at_1_medium": 1,
            "mp_at_5_medium": 3 / 4,
            "mp_at_10_medium": 3 / 4,
            "queries_medium": 1,
            "positives_medium": 3,
            "junk_medium": 1,
            # Hard, without junk and easy: h1, other, h2; half each of 1 and (1/2 + 2/3) / 2.
            "map_hard": (1 + 7 / 12) / 2,
            "mp_at_1_hard": 1,
            "mp_at_5_hard": 2 / 3,
            "mp_at_10_hard": 2 / 3,
            "queries_hard": 1,
            "positives_hard": 2,
            "junk_hard": 2,
            "queries": 1,
            "index": 5,
        },
        abs=5.1e-7,
    )


def test_a_query_found_in_the_index_counts_as_it_is_graded_or_as_junk():
    ranked = ranked_by_hand("query", "other", "good")
    truth = {WHOLE: {"good": "good"}}
    half = (0 + 1 / 2) / 2
    assert protocols.score(ranked, truth, "oxford", queries_in_index=True).metrics(0)["map_oxford"] == half
    truth[WHOLE]["query"] = "good"
    metrics = protocols.score(ranked, truth, "oxford", queries_in_index=True).metrics(0)
    assert metrics["map_oxford"] == round((1 + (1 / 2 + 2 / 3) / 2) / 2, 6)


def test_a_query_kept_out_of_the_index_is_no_positive_of_another_query():
    ranked = ranked_by_hand("other", "good")
    truth = {WHOLE: {"good": "good", "second": "good"}, Query("second", None): {}}
    metrics = protocols.score(ranked, truth, "oxford").metrics(0)
    assert metrics["positives_oxford"] == 1
    assert metrics["map_oxford"] == (0 + 1 / 2) / 2


def test_two_boxes_of_one_photo_are_two_queries():
    index = [Photo("left", "c"), Photo("right", "c")]
    boxes = (0.0, 0.0, 5.0, 5.0), (5.0, 0.0, 9.0, 5.0)
    queries = [Photo("query", "c", box) for box in boxes]
    rows = np.array([[0, 1], [0, 1]], np.int32)
    ranked = Rankings(rows, rows.astype(np.float32), queries, index, ["c", "c"], {})
    truth = {Query("query", boxes[0]): {"left": "good"}, Query("query", boxes[1]): {"right": "good"}}
    assert protocols.score(ranked, truth, "oxford").average_precision.tolist() == [1, 0.25]


@pytest.mark.parametrize(
    ("protocol", "truth", "message"),
    [
        ("oxford", {WHOLE: {"good": "easy"}}, "scores by good, ok, junk, the ground truth has easy"),
        ("revisited", {WHOLE: {"good": "ok"}}, "scores by easy, hard, junk, the ground truth has ok"),
        ("oxford", {Query("query", (0, 0, 1, 1)): {"good": "ok"}}, "it does not have the query query"),
        ("oxford", {WHOLE: {"good": "junk"}}, "no photo of the index is a positive of any query"),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_refused(protocol, truth, message):
    with pytest.raises(InputError, match=message):
        protocols.score(ranked_by_hand("good"), truth, protocol)


def test_the_intervals_of_map_carry_the_name_of_their_setup():
    index = [Photo("a", "c"), Photo("b", "c"), Photo("c", "c")]
    queries = [Photo(f"q{row}", "c") for row in range(4)]
    rows = np.tile(np.arange(3, dtype=np.int32), (4, 1))
    ranked = Rankings(rows, rows.astype(np.float32), queries, index, ["c"] * 4, {})
    grades = [{"a": "easy", "c": "hard"}, {"b": "easy"}, {"c": "easy"}, {"a": "junk"}]
    truth = {Query(query.image_path, None): judged for query, judged in zip(queries, grades, strict=True)}
    report = protocols.score(ranked, truth, "revisited")
    metrics = report.metrics(500)
    assert {*metrics} - {*report.metrics(0)} == {
        f"map_{setup}_{end}" for setup in ("easy", "medium", "hard") for end in ("low", "high")
    }
    assert metrics["map_easy_low"] < metrics["map_easy"] < metrics["map_easy_high"]
    # A single query has a hard photo: junk-free it is the second.
    assert metrics["map_hard_low"] == metrics["map_hard"] == metrics["map_hard_high"] == (0 + 1 / 2) / 2
    without_hard = protocols.score(ranked, truth | {Query("q0", None): {"a": "easy"}}, "revisited").metrics(9)
    assert "map_hard" not in without_hard
    assert "map_hard_low" not in without_hard
    assert without_hard["queries_hard"] == 0


def test_classes_are_scored_without_a_ground_truth():
    metrics = protocols.score(ranked_by_hand("good"), {}, "classes").metrics(0)
    assert metrics["map"] == 1
    assert "map_oxford" not in metrics


@pytest.mark.parametrize(("protocol", "grade"), [("oxford", "good"), ("oxford", "ok"), ("revisited", "easy")])
def test_the_first_results_take_no_more_memory_in_a_larger_index(protocol, grade):
    def scored(size):
        index = [Photo(f"i{row}", "") for row in range(size)]
        queries = [Photo(f"q{row}", "") for row in range(64)]
        rows = (np.arange(64)[:, None] + np.arange(3)).astype(np.int32)
        ranked = Rankings(rows, np.zeros((64, 3), np.float32), queries, index, [""] * 64, {})
        # The first result of even queries, the third of the others.
        truth = {Query(f"q{row}", None): {f"i{row + 2 * (row % 2)}": grade} for row in range(64)}
        tracemalloc.start()
        try:
            report = protocols.score(ranked, truth, protocol, memory=1 << 20)
            return report.average_precision, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (small, less), (large, more) = scored(100), scored(10_100)
    np.testing.assert_array_equal(small, large)
    assert small[0] == 1 > small[1] > 0
    assert more - less < 10_000 * 85  # some 60 bytes for each photo, however many queries there are
