from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks.reranking.labels import count_votes, voted_first, winners
from landmarks.searching.rankings import Block

A, B, C = 0, 1, 2


def vote(block, classes, depth):
    return winners(count_votes(block, classes, depth))


@st.composite
def retrieved(draw):
    """Rankings of an index of up to 8 photos of up to 4 classes, each padded to the same depth."""
    classes = np.array(draw(st.lists(st.integers(0, 3), min_size=1, max_size=8)), np.intp)
    depth = draw(st.integers(1, len(classes)))
    rows, distances = [], []
    for _ in range(draw(st.integers(1, 4))):
        ranking = draw(st.permutations(range(len(classes))))[: draw(st.integers(0, depth))]
        padding = depth - len(ranking)
        rows.append([*ranking, *[-1] * padding])
        distances.append([*np.arange(len(ranking)) / 4, *[np.inf] * padding])
    return Block(np.array(rows, np.int32), np.array(distances, np.float32)), classes


vote_depths = st.integers(1, 10)


@pytest.mark.parametrize(
    ("results", "depth", "winner"),
    [
        ([C, B, B], 3, B),
        ([C, B, B, C, C], 3, B),
        ([C, B, B, C, C], 5, C),
        ([C, B, A], 3, A),
        ([C, B], 2, B),
        ([C, A, A], 1, C),
        ([C, B, C, B], 4, B),
        ([C, A], 50, A),
    ],
)
def test_the_vote_is_for_the_majority_and_ties_go_to_the_first_name(results, depth, winner):
    rows = np.arange(len(results), dtype=np.int32)[None]
    block = Block(rows, np.zeros(rows.shape, np.float32))
    assert vote(block, np.array(results), depth).tolist() == [winner]


def test_padding_does_not_vote():
    # Row -1 would index the last photo, of class C.
    classes = np.array([A, B, C])
    rows = np.array([[1, -1, -1], [-1, -1, -1], [2, -1, -1]], np.int32)
    block = Block(rows, np.where(rows < 0, np.inf, 0).astype(np.float32))
    assert vote(block, classes, 3).tolist() == [B, -1, C]


def test_what_is_infinitely_far_does_not_vote():
    block = Block(np.array([[0, 1, 2]], np.int32), np.array([[1, np.inf, np.inf]], np.float32))
    assert vote(block, np.array([B, A, A]), 3).tolist() == [B]


@settings(deadline=None)
@given(retrieved(), vote_depths)
def test_the_vote_is_what_counting_gives(ranked, depth):
    block, classes = ranked
    for row, voted in zip(block.rows.tolist(), vote(block, classes, depth), strict=True):
        counts = Counter(int(classes[r]) for r in row[:depth] if r >= 0)
        assert voted == min(counts, key=lambda name: (-counts[name], name), default=-1)


@settings(deadline=None)
@given(retrieved(), vote_depths)
def test_the_voted_class_moves_to_the_front_and_the_order_is_kept_in_both_parts(ranked, depth):
    block, classes = ranked
    votes = vote(block, classes, depth)
    result = voted_first(block, classes, votes)
    assert (result.rows.dtype, result.distances.dtype) == (np.int32, np.float32)
    for voted, before, after in zip(votes, zip(*block, strict=True), zip(*result, strict=True), strict=True):
        pairs = list(zip(*(values.tolist() for values in before), strict=True))
        photos = [pair for pair in pairs if pair[0] >= 0]
        expected = [pair for pair in photos if classes[pair[0]] == voted]
        expected += [pair for pair in photos if classes[pair[0]] != voted]
        expected += [(-1, np.inf)] * (len(pairs) - len(photos))
        assert list(zip(*(values.tolist() for values in after), strict=True)) == expected


@settings(deadline=None)
@given(retrieved(), vote_depths)
def test_the_vote_on_the_new_order_is_the_vote_on_the_former(ranked, depth):
    block, classes = ranked
    votes = vote(block, classes, depth)
    assert vote(voted_first(block, classes, votes), classes, depth).tolist() == votes.tolist()


def test_two_worked_by_hand():
    classes = np.array([A, B, B, C, A])
    block = Block(np.array([[3, 1, 0, 2, 4, -1]], np.int32), np.array([[1, 2, 3, 4, 5, np.inf]], np.float32))
    votes = vote(block, classes, 4)
    assert votes.tolist() == [B]
    result = voted_first(block, classes, votes)
    assert result.rows.tolist() == [[1, 2, 3, 0, 4, -1]]
    assert result.distances.tolist() == [[2, 4, 1, 3, 5, np.inf]]
