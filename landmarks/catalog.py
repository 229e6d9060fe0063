"""The catalog of a dataset: which photos there are, of which landmark, and which files are not photos."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from landmarks import near_copies
from landmarks.errors import InputError
from landmarks.files import replacing
from landmarks.folders import EXPECTED, photo_files, printable
from landmarks.images import Box, Crop, Source, in_order, read, stored
from landmarks.near_copies import Hashes, Near
from landmarks.proving import prove

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


class Scan(NamedTuple):
    """What is below `data/<dataset>/images/`, by path."""

    photos: list[Photo]
    rejected: list[Rejected]
    contents: list[str]
    """Of each photo the SHA-256 of its file, hexadecimal."""
    hashes: Hashes
    """Of each photo, uint64 (N, 2)."""


def scan(images: Path, max_pixels: int, keep_copies: bool = False) -> Scan:
    """Sort every file below `images` into photos and rejected files.

    Each photo is proved to be whole. What is hidden or made by a system is left out. Of photos that are the
    same byte for byte, or upright pixel for pixel, the first one by path stays, unless `keep_copies`. Raises
    `InputError` where `images` is missing, holds no class folder, a linked folder or no usable photo.
    """
    files = photo_files(images)
    checks = in_order(lambda path: _check(path, images, max_pixels), files)
    whole: dict[Path, _Whole] = {}
    reasons: dict[Path, str] = {}
    first_with: dict[bytes, Path] = {}
    for path, checked in zip(files, tqdm(checks, "checking photos", len(files), unit="photo"), strict=True):
        if isinstance(checked, str):
            reasons[path] = checked
        elif not keep_copies and (first := first_with.setdefault(checked.digest, path)) != path:
            reasons[path] = f"the same photo, byte for byte, as {first.as_posix()}"
        else:
            whole[path] = checked
    if not keep_copies:
        for path, first in _same_pixels(whole).items():
            reasons[path] = f"the same photo, pixel for pixel, as {first.as_posix()}"
            del whole[path]
    rejected = [Rejected(printable(path), reasons[path]) for path in files if path in reasons]
    if not whole:
        raise InputError(
            f"{images.as_posix()}: none of its {len(files)} files is a usable photo"
            + (f" ({rejected[0].path}: {rejected[0].reason})" if rejected else "")
            + f"; {EXPECTED.format(images.as_posix())}"
        )
    return Scan(
        [Photo(path.as_posix(), path.relative_to(images).parts[0]) for path in whole],
        rejected,
        [checked.digest.hex() for checked in whole.values()],
        np.array([checked.hashes for checked in whole.values()], np.uint64),
    )


class _Whole(NamedTuple):
    digest: bytes
    """SHA-256 of the file."""
    size: tuple[int, int]
    hashes: tuple[int, int]


def _same_pixels(whole: Mapping[Path, _Whole]) -> dict[Path, Path]:
    """For each photo with the pixels of one before it, the first of these."""
    paths = list(whole)
    hashes = np.array([checked.hashes for checked in whole.values()], np.uint64).reshape(-1, 2)
    candidates: list[Path] = []
    for rows in near_copies.alike(near_copies.clusters(hashes)):
        sizes = Counter(whole[paths[row]].size for row in rows)
        candidates += [paths[row] for row in rows if sizes[whole[paths[row]].size] > 1]
    digests = in_order(lambda path: hashlib.sha256(read(path).tobytes()).digest(), candidates)
    first_with: dict[object, Path] = {}
    same: dict[Path, Path] = {}
    for path, digest in zip(candidates, digests, strict=True):
        first = first_with.setdefault((whole[path].size, digest), path)
        if first != path:
            same[path] = first
    return same


def _check(path: Path, images: Path, max_pixels: int) -> _Whole | str:
    """What is known of the photo `path`, or why it is none of a landmark."""
    if path.parent == images:
        return "lies in no class folder"
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if "\r" in path.as_posix():  # which Python's CSV writer leaves unquoted
        return "its name has a carriage return"
    try:
        content = stored(path)
        size, grey = prove(content, max_pixels)
    except ValueError as error:
        return str(error)
    return _Whole(hashlib.sha256(content).digest(), size, near_copies.hashed(grey))


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file in UTF-8: `header`, then `rows`."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_photos(path: Path, photos: Sequence[Photo]) -> None:
    """Write a file of photos, with the columns `BOX` where one of them has a box."""
    if any(photo.box for photo in photos):
        write_rows(path, HEADER + BOX, ((*photo[:2], *box_columns(photo.box)) for photo in photos))
    else:
        write_rows(path, HEADER, (photo[:2] for photo in photos))


def write_catalog(path: Path, photos: Sequence[Photo], contents: Sequence[str]) -> None:
    """Write `data/catalog.csv`: `photos`, and the SHA-256 of each."""
    rows = ((*photo[:2], content) for photo, content in zip(photos, contents, strict=True))
    write_rows(path, (*HEADER, CONTENT), rows)


def read_catalog(path: Path) -> tuple[list[Photo], dict[str, str]]:
    """Read `data/catalog.csv`: its photos, and the SHA-256 of each path, where the column is there.

    Raises `InputError` as `read_photos` does.
    """
    header, rows = read_rows(path, (*HEADER, CONTENT), HEADER)
    for place, row in rows:
        if len(row) != len(header) or not all(row):
            raise InputError(f"{place}: {row} is not {', '.join(header)}")
    photos = [Photo(row[0], row[1]) for _, row in rows]
    return photos, {row[0]: row[2] for _, row in rows if len(row) > len(HEADER)}


def read_groups(path: Path) -> dict[str, str]:
    """Read `data/near_copies.csv`: the group of each path that has one.

    Raises `InputError` where it is not such a file.
    """
    header, rows = read_rows(path, Near._fields)
    for place, row in rows:
        if len(row) != len(header):
            raise InputError(f"{place}: {row} is not {', '.join(header)}")
    near = [Near(*row) for _, row in rows]
    return {photo.image_path: photo.group for photo in near if photo.group}


def read_photos(path: Path) -> list[Photo]:
    """Read a file of photos. Every value is text: a class `001` or `NA` stays what it is.

    Raises `InputError` where the file is missing, not UTF-8, its columns are not `HEADER`, with or
    without `BOX`, or a box is not four numbers or empty.
    """
    header, rows = read_rows(path, HEADER, HEADER + BOX)
    for place, row in rows:
        if len(row) != len(header) or not all(row[:2]):
            raise InputError(f"{place}: {row} is not an image path and a class")
    return [Photo(row[0], row[1], parse_box(row[2:], place)) for place, row in rows]


def read_rows(path: Path, *headers: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, list[str]]]]:
    """The header of a CSV file, which is one of `headers`, and its rows, each with its place for errors."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `dvc repro` makes it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if tuple(header) not in [tuple(expected) for expected in headers]:
        allowed = " or ".join(repr(",".join(expected)) for expected in headers)
        raise InputError(f"{path}: the header is {','.join(header)!r}, expected {allowed}")
    return tuple(header), [(f"{path}, row {number}", row) for number, row in enumerate(rows, 2)]


def parse_box(values: Sequence[str], place: str) -> Box | None:
    """The box in the columns `BOX`, None where all are empty."""
    if not any(values):
        return None
    try:
        x1, y1, x2, y2 = map(float, values)
        whole = np.isfinite([x1, y1, x2, y2]).all() and x1 < x2 and y1 < y2
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
