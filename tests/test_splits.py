import logging
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks.catalog import Photo
from landmarks.errors import InputError
from landmarks.ground_truth import Query
from landmarks.splits import PARTS, apportion, by_ground_truth, split

DEFAULT = {"train": 0.6, "val": 0.1, "test": 0.2, "index": 0.1}


def photos_of(sizes):
    return [Photo(f"data/x/images/{name}/{i:03}.jpg", name) for name, n in sizes.items() for i in range(n)]


class_sizes = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1), st.integers(1, 60), max_size=4
)
fractions = (
    st.tuples(*[st.integers(0, 100)] * 4)
    .filter(any)
    .map(lambda parts: dict(zip(PARTS, [part / sum(parts) for part in parts], strict=True)))
)
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None)
@given(class_sizes, fractions, seeds)
def test_every_photo_is_in_exactly_one_part(sizes, fractions, seed):
    photos = photos_of(sizes)
    parts = split(photos, fractions, seed, allow_unmatched=True)
    assert tuple(parts) == PARTS
    assert sorted(photo for part in parts.values() for photo in part) == sorted(photos)
    assert all(part == sorted(part) for part in parts.values())


@settings(max_examples=50, deadline=None)
@given(class_sizes, fractions, seeds)
def test_each_class_gives_each_part_its_share_within_one_photo(sizes, fractions, seed):
    parts = split(photos_of(sizes), fractions, seed, allow_unmatched=True)
    for part, fraction in fractions.items():
        counts = Counter(photo.class_image for photo in parts[part])
        for name, n in sizes.items():
            assert abs(counts[name] - n * fraction) < 1
            assert fraction or not counts[name]


@settings(max_examples=50, deadline=None)
@given(class_sizes, class_sizes, fractions, seeds)
def test_a_photo_keeps_its_part_when_other_classes_are_added(sizes, added, fractions, seed):
    alone = split(photos_of(sizes), fractions, seed, allow_unmatched=True)
    together = split(photos_of(added | sizes), fractions, seed, allow_unmatched=True)
    for part in PARTS:
        assert alone[part] == [photo for photo in together[part] if photo.class_image in sizes]


def test_the_order_of_the_catalog_does_not_matter():
    photos = photos_of({"a": 20, "b": 30})
    shuffled = random.Random(0).sample(photos, len(photos))
    assert split(shuffled, DEFAULT, 0) == split(photos, DEFAULT, 0)


def test_the_seed_decides_which_photos_a_part_gets():
    photos = photos_of({"a": 40, "b": 40})
    first, again, other = (split(photos, DEFAULT, seed) for seed in (0, 0, 1))
    assert first == again
    assert first["test"] != other["test"]


def test_classes_of_one_size_are_shuffled_differently():
    test = split(photos_of({"a": 40, "b": 40}), DEFAULT, 0)["test"]
    of = {name: [photo.image_path[-7:] for photo in test if photo.class_image == name] for name in "ab"}
    assert of["a"] != of["b"]


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (30, [0.6, 0.1, 0.2, 0.1], [18, 3, 6, 3]),
        (10, [0.6, 0.1, 0.2, 0.1], [6, 1, 2, 1]),
        (29, [0.6, 0.1, 0.2, 0.1], [17, 3, 6, 3]),  # 17.4, 2.9, 5.8, 2.9
        (4, [0.6, 0.1, 0.2, 0.1], [3, 0, 1, 0]),  # 2.4, 0.4, 0.8, 0.4: of the equal 0.4 the first
        (50, [0, 0, 0.34, 0.66], [0, 0, 17, 33]),
        (3, [0.25] * 4, [1, 1, 1, 0]),
        (1, [0.5, 0, 0, 0.5], [1, 0, 0, 0]),
        (0, [0.6, 0.1, 0.2, 0.1], [0, 0, 0, 0]),
    ],
)
def test_shares_worked_by_hand(total, shares, expected):
    assert apportion(total, shares) == expected


def test_queries_of_a_class_without_index_photos_are_an_error_that_names_it():
    photos = photos_of({"Chùa Một Cột": 2, "large": 40})
    fractions = {"train": 0, "val": 0, "test": 0.8, "index": 0.2}  # 1.6 and 0.4 photos
    with pytest.raises(InputError) as caught:
        split(photos, fractions, 0)
    message = str(caught.value)
    assert "Chùa Một Cột (2)" in message
    assert "large" not in message
    assert "split.index" in message
    assert "split.allow_unmatched: true" in message

    parts = split(photos, fractions, 0, allow_unmatched=True)
    assert Counter(photo.class_image for photo in parts["test"]) == {"Chùa Một Cột": 2, "large": 32}


def test_index_photos_without_queries_are_no_error():
    parts = split(photos_of({"a": 5}), {"train": 0, "val": 0, "test": 0, "index": 1}, 0)
    assert len(parts["index"]) == 5


def test_a_warning_names_the_classes_too_small_for_a_part(caplog):
    fractions = {"train": 0.6, "val": 0, "test": 0.1, "index": 0.3}
    with caplog.at_level(logging.WARNING):
        split(photos_of({"small": 3, "tiny": 2, "large": 40}), fractions, 0)
    # 1.8, 0.3 and 0.9 of 3; 1.2, 0.2 and 0.6 of 2: no query of either. Nobody asked for val.
    [message] = caplog.messages
    assert "test" in message
    assert "small (3)" in message
    assert "tiny (2)" in message
    assert "large" not in message


def test_no_warning_where_every_part_gets_photos(caplog):
    with caplog.at_level(logging.WARNING):
        split(photos_of({"a": 10, "b": 30}), DEFAULT, 0)
    assert caplog.messages == []


def by_truth(queries, **options):
    truth = {Query(f"data/x/images/{name}.jpg", box): {} for name, box in queries}
    fractions = {"train": 0.5, "val": 0.25, "test": 0.2, "index": 0.05}
    return by_ground_truth(photos_of({"a": 10, "b": 6}), truth, fractions, 0, **options)


def test_the_queries_of_a_ground_truth_are_the_test_part_and_all_else_is_the_index():
    box = (1.0, 2.0, 3.0, 4.0)
    parts = by_truth([("b/003", box), ("a/007", None)])
    assert parts["test"] == [
        Photo("data/x/images/a/007.jpg", "a"),
        Photo("data/x/images/b/003.jpg", "b", box),
    ]
    queries = {photo.image_path for photo in parts["test"]}
    others = [photo for photo in photos_of({"a": 10, "b": 6}) if photo.image_path not in queries]
    assert parts["index"] == others
    # Of 9 photos of a and 5 of b; what is learned from is searched, but no query is learned from.
    assert Counter(photo.class_image for photo in parts["train"]) == {"a": 5, "b": 3}
    assert Counter(photo.class_image for photo in parts["val"]) == {"a": 2, "b": 1}
    assert set(parts["train"]) | set(parts["val"]) <= set(others)
    assert not set(parts["train"]) & set(parts["val"])


def test_queries_stay_in_the_index_where_asked():
    parts = by_truth([("a/007", (1.0, 2.0, 3.0, 4.0))], queries_in_index=True)
    assert parts["index"] == photos_of({"a": 10, "b": 6})
    assert "data/x/images/a/007.jpg" not in {photo.image_path for photo in parts["train"] + parts["val"]}


def test_two_boxes_of_a_photo_are_two_queries():
    boxes = [None, (0.0, 0.0, 5.0, 5.0), (5.0, 0.0, 9.0, 5.0)]
    parts = by_truth([("a/007", box) for box in reversed(boxes)])
    assert [photo.box for photo in parts["test"]] == boxes
    assert len(parts["index"]) == 15


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([], "0 of its 0 queries are in the catalog"),
        ([("a/007", None), ("gone/1", None)], "1 of its 2 queries are in the catalog"),
        (
            [(f"{c}/{n:03}", None) for c, count in (("a", 10), ("b", 6)) for n in range(count)],
            "every photo is a query",
        ),
    ],
)
def test_a_ground_truth_without_queries_or_without_other_photos_is_refused(queries, message):
    with pytest.raises(InputError, match=message):
        by_truth(queries)


def test_an_empty_catalog_gives_empty_parts():
    assert split([], DEFAULT, 0) == {"train": [], "val": [], "test": [], "index": []}
