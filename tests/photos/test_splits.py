import logging
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.photos.ground_truth import Query
from landmarks.photos.splits import PARTS, apportion, by_ground_truth, counts, split

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


@st.composite
def grouped(draw, sizes=class_sizes):
    """Photos, and of some the group of near-copies that they belong to."""
    photos = photos_of(draw(sizes))
    marks = draw(st.lists(st.integers(0, 15), min_size=len(photos), max_size=len(photos)))
    groups = {
        photo.image_path: f"{photo.class_image} {mark}"
        for photo, mark in zip(photos, marks, strict=True)
        if mark < 10
    }
    return photos, groups


def kept_together(photos, groups):
    """For each landmark the sizes of what stays in one part: groups of up to half of it, single photos."""
    of_class = {}
    for photo in photos:
        of_class.setdefault(photo.class_image, []).append(groups.get(photo.image_path, photo.image_path))
    return {
        name: [
            size
            for count in Counter(names).values()
            for size in ([1] * count if count > max(1, len(names) / 2) else [count])
        ]
        for name, names in of_class.items()
    }


@settings(max_examples=50, deadline=None)
@given(grouped(), fractions, seeds)
def test_every_photo_is_in_exactly_one_part(given, fractions, seed):
    photos, groups = given
    parts = split(photos, fractions, seed, groups=groups)
    assert tuple(parts) == PARTS
    assert sorted(photo for part in parts.values() for photo in part) == sorted(photos)
    assert all(part == sorted(part) for part in parts.values())


@settings(max_examples=100, deadline=None)
@given(grouped(), fractions, seeds)
def test_near_copies_stay_together_and_counts_are_met_to_within_a_group(given, fractions, seed):
    photos, groups = given
    parts = split(photos, fractions, seed, groups=groups)
    part_of = {photo.image_path: part for part in PARTS for photo in parts[part]}
    for name, sizes in kept_together(photos, groups).items():
        paths = [photo.image_path for photo in photos if photo.class_image == name]
        asked = counts(len(paths), fractions)
        for part in PARTS:
            count = sum(part_of[path] == part for path in paths)
            assert abs(count - asked[part]) <= (max(sizes) if max(sizes) > 1 else 0)
            assert count or part not in ("index", "test") or not asked[part]
        for group in {groups[path] for path in paths if path in groups}:
            members = [path for path in paths if groups.get(path) == group]
            assert len({part_of[path] for path in members}) == 1 or len(members) > len(paths) / 2


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), fractions)
def test_shares_that_give_queries_and_index_a_photo_are_rounded_by_largest_remainder(total, fractions):
    given, shares = counts(total, fractions), apportion(total, [fractions[part] for part in PARTS])
    assert sum(given.values()) == total
    if all(shares[PARTS.index(part)] or not fractions[part] for part in ("index", "test")):
        assert list(given.values()) == shares
    for part in PARTS:
        assert fractions[part] or not given[part]
    if total > 1 and fractions["index"]:
        assert given["index"]
        assert given["test"] or not fractions["test"]


@settings(max_examples=50, deadline=None)
@given(class_sizes, grouped(), fractions, seeds)
def test_a_photo_keeps_its_part_when_other_classes_are_added(added, given, fractions, seed):
    photos, groups = given
    names = {photo.class_image for photo in photos}
    others = [photo for photo in photos_of(added) if photo.class_image not in names]
    alone = split(photos, fractions, seed, groups=groups)
    together = split(photos + others, fractions, seed, groups=groups)
    for part in PARTS:
        assert alone[part] == [photo for photo in together[part] if photo.class_image in names]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 130), st.data(), st.one_of(st.just(DEFAULT), fractions), seeds)
def test_a_photo_more_or_less_moves_at_most_four_others(n, data, fractions, seed):
    photos = photos_of({"a": n, "b": 5})
    gone = data.draw(st.integers(0, n - 1))
    before, after = (split(some, fractions, seed) for some in (photos, photos[:gone] + photos[gone + 1 :]))
    part_of = {photo: part for part in PARTS for photo in before[part]}
    moved = [photo for part in PARTS for photo in after[part] if part_of[photo] != part]
    assert len(moved) <= 4
    assert {photo.class_image for photo in moved} <= {"a"}


@pytest.mark.parametrize("shares", [(0.6, 0.1, 0.2, 0.1), (0, 0, 0.34, 0.66), (0.25, 0.25, 0.25, 0.25)])
def test_each_of_many_adds_and_removals_moves_at_most_four_others(shares):
    chosen = random.Random(0)
    photos = photos_of({"a": 60})
    there, before = set(), {}
    for _ in range(200):
        there ^= {chosen.choice(photos)}
        parts = split(sorted(there), dict(zip(PARTS, shares, strict=True)), 0)
        after = {photo: part for part in PARTS for photo in parts[part]}
        assert sum(before[photo] != after[photo] for photo in before.keys() & after.keys()) <= 4
        before = after


@pytest.mark.parametrize(
    ("total", "shares"),
    [(10, (0.25, 0.25, 0.35, 0.15)), (11, (0.15, 0.25, 0.25, 0.35)), (15, (0.3, 0.3, 0.3, 0.1))],
)
def test_no_removal_moves_five_where_parts_cut_in_another_order_would(total, shares):
    fractions, photos = dict(zip(PARTS, shares, strict=True)), photos_of({"a": total})
    before = split(photos, fractions, 0)
    part_of = {photo: part for part in PARTS for photo in before[part]}
    for gone in photos:
        after = split([photo for photo in photos if photo != gone], fractions, 0)
        assert sum(part_of[photo] != part for part in PARTS for photo in after[part]) <= 4


@pytest.mark.parametrize("size", [1, 2, 3])
def test_names_and_order_of_the_photos_do_not_matter_but_contents_do(size):
    contents = [f"{place * 7919:08x}" for place in range(40)]

    def parts_of(names, seed=0):
        photos = [Photo(name, "a") for name in names]
        by_name = dict(zip(names, contents, strict=True))
        # Named as near_copies does.
        groups = {name: min(names[place - place % size :][:size]) for place, name in enumerate(names)}
        parts = split(photos, DEFAULT, seed, by_name, groups)
        return {part: {by_name[photo.image_path] for photo in parts[part]} for part in PARTS}

    names = [f"{place:02}" for place in range(40)]
    assert parts_of(names) == parts_of(names[::-1]) == parts_of([f"IMG_{name}" for name in names])
    assert parts_of(names) != parts_of(names, seed=1)


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


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        # Shares of DEFAULT that give the index or the queries none; train, val, test, index.
        (1, (0.6, 0.1, 0.2, 0.1), (0, 0, 0, 1)),
        (2, (0.6, 0.1, 0.2, 0.1), (0, 0, 1, 1)),
        (3, (0.6, 0.1, 0.2, 0.1), (1, 0, 1, 1)),
        (4, (0.6, 0.1, 0.2, 0.1), (1, 1, 1, 1)),
        (5, (0.6, 0.1, 0.2, 0.1), (2, 1, 1, 1)),
        (6, (0.6, 0.1, 0.2, 0.1), (3, 1, 1, 1)),
        (7, (0.6, 0.1, 0.2, 0.1), (4, 1, 1, 1)),  # as by largest remainder
        (2, (0.5, 0, 0, 0.5), (1, 0, 0, 1)),
        (1, (0.5, 0, 0, 0.5), (0, 0, 0, 1)),
        (2, (0, 0, 0.8, 0.2), (0, 0, 1, 1)),
        (3, (0.6, 0, 0.1, 0.3), (1, 0, 1, 1)),
        (5, (0.02, 0, 0.04, 0.94), (1, 0, 1, 3)),
    ],
)
def test_a_small_landmark_gives_to_the_index_first_then_to_the_queries(total, shares, expected):
    assert tuple(counts(total, dict(zip(PARTS, shares, strict=True))).values()) == expected


def test_what_small_landmarks_give_is_one_line_and_a_table(caplog):
    sizes = {"Chùa Một Cột": 2, "large": 40, "tower": 1, "gate": 5}
    with caplog.at_level(logging.INFO):
        split(photos_of(sizes), DEFAULT, 0)
    [message] = caplog.messages
    assert message.split("\n") == [
        "3 landmarks are too small for the shares; they give a photo to each part in the order index, test, "
        "train, val:",
        "  landmark      photos   train     val    test   index",
        "  tower              1       0       0       0       1",
        "  Chùa Một Cột       2       0       0       1       1",
        "  gate               5       2       1       1       1",
    ]


def test_the_table_of_small_landmarks_has_an_end(caplog):
    with caplog.at_level(logging.INFO):
        split(photos_of({f"{n:03}": 3 for n in range(30)}), DEFAULT, 0)
    assert caplog.messages[0].endswith("  and 10 more")
    assert caplog.messages[0].count("\n") == 22


def test_nothing_is_said_where_all_landmarks_are_large_enough(caplog):
    with caplog.at_level(logging.INFO):
        split(photos_of({"a": 10, "b": 30}), DEFAULT, 0)
    assert caplog.messages == []


def test_near_copies_of_more_than_half_a_landmark_are_taken_apart_and_said(caplog):
    photos = photos_of({"video": 20, "other": 20})
    groups = {photo.image_path: photo.class_image for photo in photos if photo.image_path[-7:] < "011.jpg"}
    groups.pop("data/x/images/other/000.jpg")
    parts = split(photos, DEFAULT, 0, groups=groups)
    [message] = caplog.messages
    assert message == (
        "near-copies of each other, as frames of a video are, make up more than half of video (11 of 20 "
        "photos); the parts share them, so queries may find their own near-copies"
    )
    frames = {photo.image_path for photo in photos if groups.get(photo.image_path) == "video"}
    assert sum(bool(frames & {photo.image_path for photo in parts[part]}) for part in PARTS) == 4
    # Ten of twenty are not more than half.
    views = {photo.image_path for photo in photos if groups.get(photo.image_path) == "other"}
    assert sum(bool(views & {photo.image_path for photo in parts[part]}) for part in PARTS) == 1


def test_many_landmarks_of_near_copies_are_one_line(caplog):
    photos = photos_of({f"{n:03}": 2 for n in range(30)})
    split(photos, DEFAULT, 0, groups={photo.image_path: photo.class_image for photo in photos})
    [message] = caplog.messages
    assert ", 018 (2 of 2 photos), 019 (2 of 2 photos) and 10 more; the parts share them" in message
    assert "020" not in message


def by_truth(queries, seed=0, **options):
    truth = {Query(f"data/x/images/{name}.jpg", box): {} for name, box in queries}
    fractions = {"train": 0.5, "val": 0.25, "test": 0.2, "index": 0.05}
    return by_ground_truth(photos_of({"a": 10, "b": 6}), truth, fractions, seed, **options)


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


def test_small_landmarks_beside_a_ground_truth_are_learned_from_by_their_shares():
    photos = photos_of({"a": 1, "b": 2, "c": 3, "query": 1})
    truth = {Query("data/x/images/query/000.jpg", None): {}}
    parts = by_ground_truth(photos, truth, {"train": 0.5, "val": 0.25, "test": 0.2, "index": 0.05}, 0)
    assert [photo.class_image for photo in parts["train"]] == ["a", "b", "c"]
    assert [photo.class_image for photo in parts["val"]] == ["b", "c"]


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


def test_training_photos_beside_a_ground_truth_keep_near_copies_together():
    group = dict.fromkeys((f"data/x/images/a/{n:03}.jpg" for n in range(4)), "g")
    trained_on = set()
    for seed in range(10):
        train = by_truth([("b/003", None)], seed, groups=group)["train"]
        trained_on.add(len(group.keys() & {photo.image_path for photo in train}))
    assert trained_on == {0, 4}


@pytest.mark.parametrize("copies", [1, 3, 8])
def test_near_copies_of_a_query_are_searched_but_not_learned_from(copies):
    paths = [f"data/x/images/a/{n:03}.jpg" for n in range(10)]
    groups = dict.fromkeys([*paths[:copies], paths[9]], "g")
    learned = set()
    for seed in range(10):
        parts = by_truth([("a/009", None)], seed, groups=groups)
        assert {photo.image_path for photo in parts["index"]} >= set(paths[:9])
        learned |= {photo.image_path for photo in parts["train"] + parts["val"]}
    assert learned & set(paths) == set(paths[copies:9])


def test_an_empty_catalog_gives_empty_parts():
    assert split([], DEFAULT, 0) == {"train": [], "val": [], "test": [], "index": []}
