import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks import params
from landmarks.photos.catalog import Photo
from landmarks.training import loop
from landmarks.training.sampling import Order

from .conftest import course, recipe, trunk


def test_batches_hold_as_many_photos_of_a_landmark_as_asked():
    labels = [0] * 9 + [1] * 8 + [2] * 3 + [3] * 4
    order = Order(labels, seed=0, together=4)
    epochs = []
    for order.epoch in (0, 1):
        rows = [row for _, row in order]
        assert len(rows) == len(order) == 4 * (3 + 2 + 1 + 1)
        groups = np.reshape(rows, (-1, 4))
        for group in groups:
            assert len({labels[row % 24] for row in group}) == 1
            assert len(set(group)) == 4
        assert set(range(24)) <= set(rows)
        epochs.append(rows)
    assert epochs[0] != epochs[1]
    order.epoch = 0
    assert [row for _, row in order] == epochs[0]


def test_groups_of_a_landmark_are_spread_over_the_epoch():
    labels = [0] * 80 + [1] * 8
    rows = [row for _, row in Order(labels, seed=3, together=4)]
    place = [group for group in range(22) if labels[rows[4 * group] % 88] == 1]
    assert place[0] < 11 <= place[1]


def test_a_validation_in_groups_has_every_photo_once():
    labels = [0] * 9 + [1] * 5
    rows = [row for _, row in Order(labels, seed=None, together=4)]
    assert sorted(rows) == list(range(14))


@pytest.mark.parametrize(
    ("sampling", "together", "counts"),
    [
        ("instance_balanced", None, {(9, 1)}),
        ("square_root", None, {(7, 3), (8, 2)}),  # three to one
        ("class_balanced", None, {(5, 5)}),
        ("square_root", 3, {(6, 6), (9, 3)}),  # of four groups, as the root of three to that of one
        ("class_balanced", 3, {(6, 6)}),
    ],
)
def test_nine_photos_and_one_are_sampled_as_by_hand(
    sampling: params.Sampling, together: int | None, counts: set[tuple[int, int]]
):
    order = Order([0] * 9 + [1], 0, together, sampling)
    seen = set()
    for order.epoch in range(30):
        rows = [row for _, row in order]
        many = [row for row in rows if row % 10 < 9]
        assert sorted(set(rows) - set(many)) == list(range(9, 10 * (len(rows) - len(many)), 10))
        assert len(set(many)) == len(many)
        seen.add((len(many), len(rows) - len(many)))
    assert seen == counts


def test_what_does_not_divide_goes_to_another_landmark_in_another_epoch():
    labels = [0] * 9 + [1, 2]
    order = Order(labels, 0, None, "class_balanced")
    totals = np.zeros(3)
    for order.epoch in range(300):
        totals += np.bincount([labels[row % 11] for _, row in order])
    np.testing.assert_allclose(totals / 300, 11 / 3, atol=0.1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=8).flatmap(
        lambda sizes: st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist())
    ),
    st.sampled_from([None, 2, 3, 4]),
    st.sampled_from([("instance_balanced", 1.0), ("square_root", 0.5), ("class_balanced", 0.0)]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 50),
    st.integers(1, 3),
)
def test_each_landmark_has_its_share_of_an_epoch_and_all_its_photos_alike(
    labels: list[int],
    together: int | None,
    sampling: tuple[params.Sampling, float],
    seed: int,
    epoch: int,
    world: int,
):
    def rows_of(rank: int = 0, world: int = 1) -> list[int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("landmarks.training.sampling.rank", lambda: rank)
            patch.setattr("landmarks.training.sampling.world", lambda: world)
            order = Order(labels, seed, together, sampling[0])
            order.epoch = epoch
            assert {number for number, _ in order} == {epoch}
            return [row for _, row in order]

    rows, size = rows_of(), together or 1
    groups = {label: math.ceil(count / size) for label, count in Counter(labels).items()}
    powers = {label: count ** sampling[1] for label, count in groups.items()}
    assert len(rows) == size * sum(groups.values())
    assert len(set(rows)) == len(rows)
    for label, power in powers.items():
        own = [row for row in rows if labels[row % len(labels)] == label]
        share = power / sum(powers.values())
        assert own
        assert abs(len(own) - share * len(rows)) < size + 1e-6
        times = Counter(row % len(labels) for row in own)
        of_label = np.flatnonzero(np.array(labels) == label).tolist()
        least, more = divmod(len(own), len(of_label))
        expected = [least] * (len(of_label) - more) + [least + 1] * more
        assert sorted(times[row] for row in of_label) == expected
        for row, count in times.items():  # each time varied otherwise
            assert all(row + again * len(labels) in own for again in range(count))

    parts = [np.reshape(rows_of(rank, world), (-1, size)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    shared = np.stack(parts, axis=1).reshape(-1, size).tolist()
    whole = np.reshape(rows, (-1, size)).tolist()
    assert shared == (whole * world)[: math.ceil(len(whole) / world) * world]


@pytest.mark.parametrize("sampling", ["square_root", "class_balanced"])
def test_validation_has_every_photo_once_however_training_is_sampled(
    photos: list[Photo], tmp_path: Path, sampling: params.Sampling
):
    unequal = [*photos[:12:2], photos[1]]
    made = loop.Training(trunk(), unequal, unequal, recipe(sampling=sampling), 0, tmp_path)
    assert sorted(row for _, row in made.val_loader.sampler) == list(range(7))
    assert sum(row % 7 == 6 for _, row in made.train_loader.sampler) > 1


def test_a_photo_that_fills_a_group_is_varied_otherwise(photos: list[Photo], tmp_path: Path):
    data = course(photos, tmp_path).train
    (first, label), (again, same), (once_more, _) = data[0, 3], data[0, 3 + 16], data[0, 3]
    assert label == same
    assert torch.equal(first, once_more)
    assert not torch.equal(first, again)


def test_an_epoch_of_groups_has_photos_of_every_landmark(photos: list[Photo], tmp_path: Path):
    # Nine landmarks of a photo or two make nine groups of four, the last of which is no whole batch.
    nine = [photo._replace(class_image=str(place % 9)) for place, photo in enumerate(photos)]
    made = course(nine, tmp_path, recipe(loss="triplet", per_class=4, epochs=1))
    assert {int(label) for _, labels in made.train_loader for label in labels} == set(range(9))
    list(made.epochs())
    lengths = np.linalg.norm(made.net.head.weight.detach().numpy(), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"per_class": 2, "batch_size": 4}, {"sampling": "class_balanced"}],
    ids=str,
)
def test_each_epoch_and_seed_has_another_order_and_other_crops_but_validates_on_the_same(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
):
    trained: list[tuple[list[int], list[bytes]]] = []
    validated = []

    def look(model, loader, options, name, recipe, optimizer=None):
        rows = [row for _, row in loader.sampler]
        seen = [photo.numpy().tobytes() for batch, _ in loader for photo in batch]
        (trained if optimizer else validated).append((rows[: len(seen)], seen))
        return 1.0, 0.5, 1.0

    monkeypatch.setattr(loop, "one_pass", look)
    for seed in (0, 1):
        made = loop.Training(trunk(), photos, photos[:4], recipe(**changes), seed, tmp_path / str(seed))
        list(made.epochs())
    orders, _ = zip(*trained, strict=True)
    assert len({tuple(rows) for rows in orders}) == len(trained) == 6
    for row in range(16):
        crops = [dict(zip(rows, seen, strict=True)).get(row) for rows, seen in trained]
        there = [crop for crop in crops if crop]
        assert len(set(there)) == len(there) >= 4
    assert validated == validated[:1] * 6
    assert len(validated[0][0]) == 4


@pytest.mark.parametrize(
    ("count", "size", "per_class"),
    [
        *[(9, 8, None), (8, 8, None), (5, 8, None), (2, 8, None), (3, 2, None), (16, 5, None), (13, 4, None)],
        *[(9, 8, 2), (5, 8, 2), (3, 2, 2), (13, 4, 2), (13, 8, 4)],
    ],
)
def test_no_batch_of_training_is_one_photo_and_validation_has_them_all(
    photos: list[Photo], tmp_path: Path, count: int, size: int, per_class: int | None
):
    plan = recipe(batch_size=size, per_class=per_class)
    made = loop.Training(trunk(), photos[:count], photos[:count], plan, 0, tmp_path)
    sizes = [len(batch) for batch in made.train_loader.batch_sampler]
    assert sizes
    assert min(sizes) >= 2
    assert max(sizes) <= size
    assert sum(sizes) > count - size
    assert sum(len(batch) for batch in made.val_loader.batch_sampler) == count


@pytest.mark.parametrize("val", ["c", "bd", "dca", "xcbxa"])
def test_a_label_means_the_same_landmark_in_validation_as_in_training(
    photos: list[Photo], tmp_path: Path, val: str
):
    of_train = [photo._replace(class_image="badc"[number % 4]) for number, photo in enumerate(photos)]
    of_val = [photo._replace(class_image=name) for photo, name in zip(photos, val, strict=False)]
    made = loop.Training(trunk(), of_train, of_val, recipe(), 0, tmp_path)
    for loader, expected in ((made.train_loader, of_train), (made.val_loader, of_val)):
        names = {(photo.image_path, photo.class_image) for photo in expected if photo.class_image != "x"}
        data = loader.dataset
        labelled = {
            (photo.image_path, made.classes[label])
            for photo, label in zip(data.photos, data.labels, strict=True)
        }
        assert labelled == names
