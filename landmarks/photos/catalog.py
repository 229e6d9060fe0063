"""The catalog of a dataset: which photos there are, of which landmark, and which files are not photos."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmarks import tables
from landmarks.errors import InputError
from landmarks.photos.images import Box, Crop, Source

HEADER = ("image_path", "class_image")
BOX = ("x1", "y1", "x2", "y2")
CONTENT = "sha256"


class Photo(NamedTuple):
    """A row of `data/catalog.csv` or `data/splits/*.csv`."""

    image_path: str
    """Relative to the root of the repository, with `/`."""
    class_image: str
    """The landmark: the name of the first folder below `images/`, any Unicode."""
    box: Box | None = None
    """What of a query is searched for, None for the whole photo."""

    @property
    def source(self) -> Source:
        """The photo, or what of it lies in the box."""
        path = Path(self.image_path)
        return Crop(path, self.box) if self.box else path


class Rejected(NamedTuple):
    """A row of `data/rejected.csv`."""

    path: str
    reason: str


class Near(NamedTuple):
    """A row of `data/near_copies.csv`: a photo that has near-copies."""

    image_path: str
    class_image: str
    group: str
    """The path of the first photo of its landmark that it is a near-copy of, over others too; '' for none."""
    elsewhere: str
    """The path of the most similar near-copy in another landmark, '' for none."""


def write_photos(path: Path, photos: Sequence[Photo]) -> None:
    """Write a file of photos, with the columns `BOX` where one of them has a box."""
    if any(photo.box for photo in photos):
        tables.write(path, HEADER + BOX, ((*photo[:2], *box_columns(photo.box)) for photo in photos))
    else:
        tables.write(path, HEADER, (photo[:2] for photo in photos))


def write_catalog(path: Path, photos: Sequence[Photo], contents: Sequence[str]) -> None:
    """Write `data/catalog.csv`: `photos`, and the SHA-256 of each."""
    rows = ((*photo[:2], content) for photo, content in zip(photos, contents, strict=True))
    tables.write(path, (*HEADER, CONTENT), rows)


def read_catalog(path: Path) -> tuple[list[Photo], dict[str, str]]:
    """Read `data/catalog.csv`: its photos, and the SHA-256 of each path, where the column is there.

    Raises `InputError` as `read_photos` does.
    """
    header = (*HEADER, CONTENT)
    table = tables.read(path, header, HEADER, filled=len(header))
    paths = table["image_path"].tolist()
    photos = list(map(Photo, paths, table["class_image"].tolist()))
    return photos, dict(zip(paths, table[CONTENT], strict=True)) if CONTENT in table else {}


def read_groups(path: Path) -> dict[str, str]:
    """Read `data/near_copies.csv`: the group of each path that has one.

    Raises `InputError` where it is not such a file.
    """
    table = tables.read(path, Near._fields)
    grouped = table[table["group"] != ""]
    return dict(zip(grouped["image_path"], grouped["group"], strict=True))


def read_photos(path: Path) -> list[Photo]:
    """Read a file of photos. Every value is text: a class `001` or `NA` stays what it is.

    Raises `InputError` where the file is missing, not UTF-8, its columns are not `HEADER`, with or
    without `BOX`, or a box is not four numbers or empty.
    """
    wrong = "{row} is not an image path and a class"
    table = tables.read(path, HEADER, HEADER + BOX, filled=len(HEADER), wrong=wrong)
    boxes: Iterable[Box | None] = repeat(None)
    if len(table.columns) > len(HEADER):
        corners = table[list(BOX)].itertuples(name=None)
        boxes = (parse_box(values, f"{path}, row {number}") for number, *values in corners)
    return list(map(Photo, table["image_path"].tolist(), table["class_image"].tolist(), boxes))


def parse_box(values: Sequence[str], place: str) -> Box | None:
    """The box in the columns `BOX`, None where all are empty."""
    if not any(values):
        return None
    try:
        x1, y1, x2, y2 = map(float, values)
        whole = all(map(isfinite, (x1, y1, x2, y2))) and x1 < x2 and y1 < y2
    except ValueError:
        whole = False
    if not whole:
        raise InputError(
            f"{place}: {','.join(values)!r} is not a box: x1,y1,x2,y2 in pixels, x1 < x2 and y1 < y2; "
            "leave all four empty for the whole photo"
        )
    return x1, y1, x2, y2


def box_columns(box: Box | None) -> list[str]:
    """`box` as the columns `BOX`."""
    return [repr(float(corner)).removesuffix(".0") for corner in box] if box else [""] * len(BOX)


def rows_by_path(photos: Sequence[Photo]) -> dict[str, int]:
    """The row of each of `photos`, by its path."""
    return {photo.image_path: row for row, photo in enumerate(photos)}


def numbered(names: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """The distinct `names` in alphabetical (code point) order, and the number of each name among them."""
    distinct = sorted(set(names))
    number = {name: place for place, name in enumerate(distinct)}
    return distinct, np.array([number[name] for name in names], np.intp)
