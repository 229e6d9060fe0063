import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.datasets import make_moons
from sklearn.metrics import average_precision_score

from landmarks.reranking import diffusion

METRICS = {"L1": "cityblock", "L2": "euclidean", "L3": "cosine"}


def affinities(x, distance, k, gamma):
    """The mutual graph of Iscen et al., in whole matrices."""
    d = cdist(x, x, METRICS[distance])
    np.fill_diagonal(d, np.inf)
    among = d.argsort(axis=1).argsort(axis=1) < k
    similarity = np.maximum(1 - cdist(x, x, "cosine"), 0) ** gamma
    np.fill_diagonal(similarity, 0)
    return np.where(among & among.T, similarity, 0)


@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize(("k", "gamma"), [(1, 1), (5, 3), (50, 3)])
def test_the_graph_is_that_of_whole_matrices(monkeypatch, distance, k, gamma):
    monkeypatch.setattr("landmarks.reranking._neighbours.ROWS_AT_ONCE", 7)
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    found = diffusion.graph(x, distance, k, gamma, zeros_last=False)
    np.testing.assert_allclose(found.toarray(), affinities(x, distance, k, gamma), atol=1e-6)


@pytest.mark.parametrize(("size", "neighbours"), [(300, 20), (150, 60), (400, 9)])
def test_making_the_graph_takes_what_is_told(peak_memory, size, neighbours):
    x = np.random.default_rng(0).random((size, 8)).astype(np.float32)
    told = diffusion.graph_bytes(size, neighbours)
    found = peak_memory(lambda: diffusion.graph(x, "L2", neighbours, 3, False, 1 << 19), told)
    assert told / 2 < found <= told + (1 << 19)


def test_a_photo_without_keypoints_has_no_neighbours():
    x = np.array([[0, 0], [1, 0], [0.8, 0.6], [0, 0]], np.float32)
    for gamma, affinity in ((1, 0.8), (0, 1)):
        found = diffusion.graph(x, "L2", 3, gamma, zeros_last=True).toarray()
        expected = np.zeros((4, 4))
        expected[1, 2] = expected[2, 1] = affinity
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_the_scores_solve_the_papers_equation_among_the_rows_alone(alpha):
    x = np.random.default_rng(0).random((60, 4)).astype(np.float32)
    affinity = diffusion.graph(x, "L2", 6, 3, zeros_last=False)
    rows = np.random.default_rng(1).permutation(60)[:25]
    seeds = np.zeros(25)
    seeds[:5] = [0.9, 0.8, 0.5, 0.2, 0.1]

    among = affinity.toarray()[np.ix_(rows, rows)]
    degrees = among.sum(axis=1)
    assert (degrees == 0).any()  # one that the rows cut off from the graph
    scale = np.array([1 / np.sqrt(degree) if degree else 0 for degree in degrees])
    normal = scale[:, None] * among * scale
    expected = np.linalg.inv(np.eye(25) - alpha * normal) @ seeds
    np.testing.assert_allclose(
        diffusion.reached(affinity, rows, seeds, alpha), expected, rtol=1e-5, atol=1e-9
    )


def test_of_two_moons_the_querys_comes_first_to_its_far_end():
    points, moon = make_moons(200, shuffle=False, noise=0.05, random_state=0)
    # On a small cap of the sphere, where the cosine orders as Euclidean distance does in the plane.
    sphere = np.hstack([points * 0.2, np.ones((200, 1))]).astype(np.float32)
    query, index, same = sphere[0], sphere[1:], moon[1:] == moon[0]
    near = np.argsort(np.linalg.norm(index - query, axis=1))
    assert average_precision_score(same[near], -np.arange(199)) < 0.9

    affinity = diffusion.graph(index, "L2", 8, 3, zeros_last=False)
    seeds = np.zeros(199)
    seeds[:5] = 1
    order = near[np.argsort(-diffusion.reached(affinity, near, seeds, 0.99), kind="stable")]
    assert average_precision_score(same[order], -np.arange(199)) == pytest.approx(1)
