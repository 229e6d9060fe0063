"""A stratified, seeded split of a catalog into parts, which other photos hardly change."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, permutations

import numpy as np

from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.photos.ground_truth import GroundTruth, in_order

PARTS = ("train", "val", "test", "index")
FIRST_SERVED = ("index", "test", "train", "val")
"""A landmark too small for the shares gives one photo to each of these that has a share, in this order."""

_LISTED = 20

log = logging.getLogger(__name__)


def split(
    photos: Sequence[Photo],
    fractions: Mapping[str, float],
    seed: int,
    contents: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[Photo]]:
    """Put every photo into exactly one of `PARTS`, each landmark by `counts` of the same `fractions`.

    The photos of a landmark are ordered by a hash of `seed`, landmark and content (that of its path in
    `contents`, by default the path itself), and the parts are cut from that order. So the names and the order
    of the photos do not matter. One photo more or less moves no photo of another landmark, and few of its
    own: four at most with each of some 1,500 shares that were tried, if there are no near-copies.

    `groups` names the group of near-copies that a path belongs to, if any. A group has one place, by the
    first of its contents, and stays in one part, so `counts` are met to within one group. A group of more
    than half of its landmark is taken apart, with a warning. Landmarks too small for the shares are logged.
    """
    small: list[tuple[object, ...]] = []

    def counted(name: str, total: int) -> dict[str, int]:
        given = counts(total, fractions)
        if not _enough(_shares(total, fractions), fractions):
            small.append((name, total, *given.values()))
        return given

    parts = _cut(photos, counted, _line(fractions), seed, contents or {}, groups or {})
    if small:
        log.info(
            "%d landmarks are too small for the shares; they give a photo to each part in the order %s:\n%s",
            *(len(small), ", ".join(part for part in FIRST_SERVED if fractions[part]), _table(small)),
        )
    return parts


def _table(rows: list[tuple[object, ...]]) -> str:
    shown = [("landmark", "photos", *PARTS), *sorted(rows, key=lambda row: (row[1], row[0]))[:_LISTED]]
    width = max(len(str(name)) for name, *_ in shown)
    lines = [f"  {name:{width}}" + "".join(f"{value:>8}" for value in values) for name, *values in shown]
    return "\n".join([*lines, *([f"  and {len(rows) - _LISTED} more"] if len(rows) > _LISTED else [])])


def by_ground_truth(
    photos: Sequence[Photo],
    truth: GroundTruth,
    fractions: Mapping[str, float],
    seed: int,
    queries_in_index: bool = False,
    contents: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[Photo]]:
    """Make `test` from the queries of `truth`, with their boxes, and `index` from all other photos.

    With `queries_in_index`, the index has all `photos`. `train` and `val` are drawn from the photos that are
    neither queries nor, by `groups`, near-copies of one: `fractions` of each class, as in `split`. They are
    in the index, too, since what is learned from them is meant to search it. Raises `InputError` if there are
    no queries, or no other photos.
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
    learned = {"train": fractions["train"], "val": fractions["val"], "test": 0, "index": rest}
    groups = groups or {}
    asked = {groups[path] for path in queries & groups.keys()}
    free = [photo for photo in others if groups.get(photo.image_path) not in asked]

    parts = _cut(free, lambda _, total: _shares(total, learned), PARTS, seed, contents or {}, groups)
    return {**parts, "test": test, "index": sorted(photos if queries_in_index else others)}


def counts(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """How many of the `total` photos of a landmark each part gets.

    Its share, rounded by the largest remainder. If that gives no photo to the index or the queries although
    they have a share, the parts of `FIRST_SERVED` get one photo each, and the rest go where most is missing.
    """
    given = _shares(total, fractions)
    if _enough(given, fractions):
        return given
    served = [part for part in FIRST_SERVED if fractions[part]]
    given = {part: int(part in served[:total]) for part in PARTS}
    for _ in range(total - sum(given.values())):
        given[max(served, key=lambda part: round(fractions[part] * total - given[part], 9))] += 1
    return given


def _shares(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    return dict(zip(PARTS, apportion(total, [fractions[part] for part in PARTS]), strict=True))


def _enough(given: Mapping[str, int], fractions: Mapping[str, float]) -> bool:
    return all(given[part] or not fractions[part] for part in ("index", "test"))


def apportion(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `total` in the ratio of `fractions`, by largest remainder, first wins."""
    # The rounding takes away the noise of the product: 0.1 * 30 is 3 photos, not 2.
    shares = [round(total * fraction, 9) for fraction in fractions]
    rounded = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda part: round(rounded[part] - shares[part], 9))
    for part in by_remainder[: total - sum(rounded)]:
        rounded[part] += 1
    return rounded


def _line(fractions: Mapping[str, float]) -> tuple[str, ...]:
    """The order in which the parts are cut, so that one photo more moves at most four others where possible.

    Largest remainders are not monotone: a part may lose a photo when the landmark gains one. Whether that
    shifts its neighbours too depends on who they are.
    """
    steps = np.diff([list(counts(total, fractions).values()) for total in range(500)], axis=0)

    def moved(line: tuple[str, ...]) -> int:
        # A photo before an edge pushes another over it, unless the edge moves with it.
        edges = steps[:, [PARTS.index(part) for part in line]].cumsum(axis=1)[:, :-1]
        before, behind = abs(edges), abs(edges - 1)
        return max(
            int((before[:, :place].sum(axis=1) + behind[:, place:].sum(axis=1)).max())
            for place in range(len(PARTS))
        )

    lines = list(permutations(PARTS))
    return next((line for line in lines if moved(line) <= 4), min(lines, key=moved))


def _cut(
    photos: Sequence[Photo],
    counted: Callable[[str, int], Mapping[str, int]],
    line: Sequence[str],
    seed: int,
    contents: Mapping[str, str],
    groups: Mapping[str, str],
) -> dict[str, list[Photo]]:
    parts: dict[str, list[Photo]] = {part: [] for part in PARTS}
    apart: list[str] = []
    by_class = sorted(photos, key=lambda photo: photo[::-1])
    for name, members in groupby(by_class, lambda photo: photo.class_image):
        ordered = _ordered(name, list(members), seed, contents, groups, apart)
        given = counted(name, sum(map(len, ordered)))
        cut: dict[str, list[list[Photo]]] = {part: [] for part in PARTS}
        done, left = 0, iter(ordered)
        edge = 0
        for part in line:
            edge += given[part]
            while done < edge:
                cut[part].append(next(left))
                done += len(cut[part][-1])
        for part in ("index", "test"):
            if given[part] and not cut[part]:
                _take_one(part, cut)
        for part in PARTS:
            parts[part] += [photo for group in cut[part] for photo in group]
    if apart:
        more = f" and {len(apart) - _LISTED} more" if len(apart) > _LISTED else ""
        log.warning(
            "near-copies of each other, as frames of a video are, make up more than half of %s%s; the parts "
            "share them, so queries may find their own near-copies",
            *(", ".join(apart[:_LISTED]), more),
        )
    return {part: sorted(members) for part, members in parts.items()}


def _ordered(
    name: str,
    members: Sequence[Photo],
    seed: int,
    contents: Mapping[str, str],
    groups: Mapping[str, str],
    apart: list[str],
) -> list[list[Photo]]:
    """The groups of a landmark in the order in which parts are cut; `apart` gets what is taken apart."""
    together = defaultdict(list)
    for photo in members:
        together[groups.get(photo.image_path, photo.image_path)].append(photo)
    places = []
    for group in together.values():
        if len(group) > max(1, len(members) / 2):
            apart.append(f"{name} ({len(group)} of {len(members)} photos)")
            alone = [[photo] for photo in group]
        else:
            alone = [group]
        for some in alone:
            content = min(contents.get(photo.image_path, photo.image_path) for photo in some)
            place = hashlib.sha256(json.dumps([seed, name, content]).encode()).digest()
            places.append((place, some))
    return [group for _, group in sorted(places)]


def _take_one(part: str, cut: dict[str, list[list[Photo]]]) -> None:
    """Give `part`, which larger groups have left without one, the smallest of the part with most photos."""
    several = [giver for giver in PARTS if len(cut[giver]) > 1]
    if several:
        giver = max(several, key=lambda giver: sum(map(len, cut[giver])))
    else:
        giver = next(giver for giver in reversed(FIRST_SERVED) if cut[giver])
    smallest = min(cut[giver], key=len)
    cut[giver].remove(smallest)
    cut[part].append(smallest)
