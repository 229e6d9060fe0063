"""A stratified, seeded split of a catalog into parts."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from landmarks.catalog import Photo
from landmarks.errors import InputError
from landmarks.ground_truth import GroundTruth, in_order

PARTS = ("train", "val", "test", "index")

log = logging.getLogger(__name__)


def split(
    photos: Sequence[Photo], fractions: Mapping[str, float], seed: int, allow_unmatched: bool = False
) -> dict[str, list[Photo]]:
    """Put every photo into exactly one of `PARTS`, each class by the same `fractions`.

    A class of n photos gives each part its share of n, rounded by largest remainder. The shuffle of a
    class is seeded by `seed` and the name of the class, so a photo keeps its part when other classes
    come or go. Classes that are too small for a part are named in a warning. Raises `InputError` where
    a class has photos in `test` but none in `index`, unless `allow_unmatched`.
    """
    parts: dict[str, list[Photo]] = {part: [] for part in PARTS}
    too_small: dict[str, list[str]] = {part: [] for part in PARTS}
    unmatched = []
    for name, group in groupby(
        sorted(photos, key=lambda photo: photo[::-1]), lambda photo: photo.class_image
    ):
        members = list(group)
        counts = apportion(len(members), [fractions[part] for part in PARTS])
        order = iter(_generator(seed, name).permutation(len(members)))
        for part, count in zip(PARTS, counts, strict=True):
            parts[part] += [members[next(order)] for _ in range(count)]
            if not count and fractions[part]:
                too_small[part].append(f"{name} ({len(members)})")
        if counts[PARTS.index("test")] and not counts[PARTS.index("index")]:
            unmatched.append(f"{name} ({len(members)})")
    if unmatched and not allow_unmatched:
        raise InputError(
            f"split: classes with queries but no index photo: {', '.join(unmatched)} photos; add photos, "
            "raise split.index, or allow it with split.allow_unmatched: true"
        )
    for part, names in too_small.items():
        if names:
            log.warning("too small for the %s part, by number of photos: %s", part, ", ".join(names))
    return {part: sorted(members) for part, members in parts.items()}


def by_ground_truth(
    photos: Sequence[Photo],
    truth: GroundTruth,
    fractions: Mapping[str, float],
    seed: int,
    queries_in_index: bool = False,
) -> dict[str, list[Photo]]:
    """Make `test` of the queries of `truth`, with their boxes, and `index` of all other photos.

    With `queries_in_index` the index has all `photos`. `train` and `val` are drawn from the photos that are
    no queries, `fractions` of each class as in `split`, and are in the index too: what is learned from them
    is meant to search it. Raises `InputError` where there are no queries, or no other photos.
    """
    classes = {photo.image_path: photo.class_image for photo in photos}
    test = [
        Photo(query.image_path, classes[query.image_path], query.box)
        for query in in_order(truth)
        if query.image_path in classes
    ]
    if len(test) < len(truth) or not test:
        raise InputError(f"ground truth: {len(test)} of its {len(truth)} queries are in the catalog")
    queries = {photo.image_path for photo in test}
    others = [photo for photo in photos if photo.image_path not in queries]
    if not others:
        raise InputError("ground truth: every photo is a query, there is none to be found")
    rest = 1 - fractions["train"] - fractions["val"]
    parts = split(
        others, {"train": fractions["train"], "val": fractions["val"], "test": 0, "index": rest}, seed
    )
    return {**parts, "test": test, "index": sorted(photos if queries_in_index else others)}


def apportion(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `total` in the ratio of `fractions`, by largest remainder, first wins."""
    # The rounding takes away the noise of the product: 0.1 * 30 is 3 photos, not 2.
    shares = [round(total * fraction, 9) for fraction in fractions]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda part: round(counts[part] - shares[part], 9))
    for part in by_remainder[: total - sum(counts)]:
        counts[part] += 1
    return counts


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8])])
