import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from landmarks.reranking.query_expansion import expanded

numbers = st.floats(-8, 8, width=32).map(lambda x: 0.0 if abs(x) < 1e-2 else x)


@st.composite
def neighbourhoods(draw):
    """A few descriptors (q, d), their neighbours (q, n, d), and which of these there are."""
    q, n, d = draw(st.integers(1, 3)), draw(st.integers(0, 4)), draw(st.integers(1, 5))
    parts = ((q, d), numbers), ((q, n, d), numbers)
    own, near = (draw(arrays(np.float32, shape, elements=elements)) for shape, elements in parts)
    return own, near, draw(arrays(np.bool_, (q, n)))


def length(x, norm):
    return sum(abs(v) ** norm for v in x) ** (1 / norm) if norm else 1


def unit(x, norm):
    return [v / (length(x, norm) or 1) for v in x]


def plainly(q, neighbours, alpha, norm):
    """The formula for one query, number by number."""
    total, weights = unit(q, norm), 1
    for x in neighbours:
        product = sum(a * b for a, b in zip(q, x, strict=True))
        lengths = length(q, 2) * length(x, 2)
        weight = max(product / lengths if lengths else 0, 0) ** alpha
        total = [t + weight * v for t, v in zip(total, unit(x, norm), strict=True)]
        weights += weight
    return unit([t / weights for t in total], norm)


@settings(deadline=None)
@given(neighbourhoods(), st.sampled_from([0, 1, 3, 0.5]), st.sampled_from([1, 2, None]))
def test_it_is_the_formula(given, alpha, norm):
    own, near, there = given
    found = expanded(own, near, there, alpha, norm)
    assert (found.dtype, found.shape) == (np.float32, own.shape)
    for got, q, x, known in zip(found, own.tolist(), near.tolist(), there, strict=True):
        expected = plainly(q, [x[i] for i in np.flatnonzero(known)], alpha, norm)
        # What nearly cancels has any direction once it is brought to unit length.
        if length(plainly(q, [x[i] for i in np.flatnonzero(known)], alpha, None), 2) > 1e-2:
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_worked_by_hand():
    own, near = np.array([[1, 0]], np.float32), np.array([[[0.6, 0.8], [0, 1]]], np.float32)
    there = np.array([[True, True]])
    # The plain mean of Chum et al.: (1.6, 1.8) / 3.
    np.testing.assert_allclose(expanded(own, near, there, 0, None), [[1.6 / 3, 0.6]], rtol=1e-6)
    # Radenović et al.: weights 0.6 ** 3 and 0, then unit length.
    x, y = 1 + 0.216 * 0.6, 0.216 * 0.8
    expected = [[x / math.hypot(x, y), y / math.hypot(x, y)]]
    np.testing.assert_allclose(expanded(own, near, there, 3, 2), expected, rtol=1e-6)


@pytest.mark.parametrize("norm", [1, 2, None])
def test_zero_vectors_stay_zero_and_weigh_nothing(norm):
    zero, ones = np.zeros((1, 3), np.float32), np.ones((1, 1, 3), np.float32) / 3
    assert expanded(zero, ones, np.array([[False]]), 0, norm).tolist() == zero.tolist()
    assert expanded(zero, ones, np.array([[True]]), 3, norm).tolist() == zero.tolist()
