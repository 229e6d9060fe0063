import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from landmarks.reranking.k_reciprocal import bytes_of, distances

METRICS = {"L1": "cityblock", "L2": "sqeuclidean", "L3": "cosine"}


def plainly(items, metric, k1, k2, weight):
    """The paper's sets and sums, one photo at a time; the query is the first of `items`."""
    d = cdist(items, items, metric)
    d = d / d.max(axis=1, keepdims=True)
    n = len(items)
    order = [sorted(range(n), key=lambda g, p=p: d[p][g]) for p in range(n)]

    def near(p, k):
        return set(order[p][: k + 1])

    def reciprocal(p, k):
        return {g for g in near(p, k) if p in near(g, k)}

    def encoding(p):
        members = set(reciprocal(p, k1))
        for q in reciprocal(p, k1):
            candidate = reciprocal(q, k1 // 2)
            if len(reciprocal(p, k1) & candidate) * 3 >= 2 * len(candidate):
                members |= candidate
        v = {g: math.exp(-d[p][g]) for g in members}
        return {g: value / sum(v.values()) for g, value in v.items()}

    first = [encoding(p) for p in range(n)]
    v = [{g: sum(first[q].get(g, 0) for q in order[p][:k2]) / k2 for g in range(n)} for p in range(n)]
    result = []
    for g in range(1, n):
        least = sum(min(v[0][i], v[g][i]) for i in range(n))
        most = sum(max(v[0][i], v[g][i]) for i in range(n))
        result.append((1 - weight) * (1 - least / most) + weight * d[0][g])
    return result


@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (4, 1, 0), (5, 2, 0.9), (8, 3, 0.3)])
def test_it_is_the_papers_sets_and_sums(distance, k1, k2, weight):
    rng = np.random.default_rng(k1)
    for size in (2, 5, 30, 45):
        items = (rng.normal(size=(size, 3)) + rng.integers(0, 3, (size, 1))).astype(np.float32)
        found = distances(items[0], items[1:], distance, k1, k2, weight)
        expected = plainly(items, METRICS[distance], k1, min(k2, size), weight)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_near_result_whose_own_neighbours_are_others_falls_behind_those_that_have_the_query():
    rng = np.random.default_rng(0)
    query = np.zeros(2, np.float32)
    of_its_kind = rng.uniform(-0.15, 0.15, (6, 2)) + (0.85, 0)
    intruders = rng.uniform(-0.02, 0.02, (2, 2)) + (-0.65, 0)  # nearer, but on the edge of a crowd
    crowd = rng.uniform(-0.02, 0.02, (8, 2)) + (-1.1, 0)
    results = np.vstack([of_its_kind, intruders, crowd]).astype(np.float32)
    assert set(np.argsort(np.linalg.norm(results, axis=1))[:2]) == {6, 7}
    # Without the local expansion, which would average the query with what is nearest to it.
    found = distances(query, results, "L2", k1=6, k2=1, weight=0.3)
    assert set(np.argsort(found)[:6]) == set(range(6))


def test_results_that_are_all_alike_are_all_at_distance_zero():
    same = np.ones((5, 2), np.float32)
    np.testing.assert_allclose(distances(same[0], same[1:], "L2", 20, 6, 0.3), 0, atol=1e-12)


def test_more_duplicates_than_neighbours_have_distances_too():
    rng = np.random.default_rng(0)
    items = np.concatenate([np.ones((30, 4)), rng.normal(size=(30, 4))]).astype(np.float32)
    found = distances(items[0], items[1:], "L2", 5, 10, 0.3)
    assert np.isfinite(found).all()
    assert found[:29].max() < found[29:].min()


@pytest.mark.parametrize("results", [100, 130, 160])
def test_comparing_a_shortlist_takes_what_is_told(peak_memory, results):
    x = np.random.default_rng(0).random((results, 4)).astype(np.float32)
    told = bytes_of(results)
    found = peak_memory(lambda: distances(x[0], x, "L2", 20, 6, 0.3), told)
    assert told / 2 < found <= told + 100_000
