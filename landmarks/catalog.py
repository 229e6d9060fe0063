"""The catalog of a dataset: which photos there are, of which landmark, and which files are not photos."""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmarks.errors import InputError
from landmarks.files import replacing
from landmarks.images import Box, Crop, Source, decode, in_order
from landmarks.progress import tqdm

HEADER = ("image_path", "class_image")
BOX = ("x1", "y1", "x2", "y2")


class Photo(NamedTuple):
    """A row of `data/catalog.csv` and `data/splits/*.csv`."""

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


def scan(images: Path, max_pixels: int, keep_copies: bool = False) -> tuple[list[Photo], list[Rejected]]:
    """Sort every file below `images` into photos and rejected files, both by path.

    Each photo is proved to decode whole. Hidden files and folders are ignored. Of photos that are
    the same byte for byte the first one by path stays, unless `keep_copies`. Raises `InputError` where
    `images` is missing, holds no class folder or no usable photo.
    """
    expected = landmark_folders(images)
    files = sorted(visible_files(images), key=lambda path: path.as_posix())
    checks = in_order(lambda path: _check(path, images, max_pixels), files)
    photos: list[Photo] = []
    rejected: list[Rejected] = []
    first_with: dict[bytes, str] = {}
    for path, (digest, reason) in zip(
        files, tqdm(checks, "checking photos", len(files), unit="photo"), strict=True
    ):
        name = path.as_posix()
        if not reason and not keep_copies and (first := first_with.setdefault(digest, name)) != name:
            reason = f"the same photo, byte for byte, as {first}"
        if reason:
            rejected.append(Rejected(printable(path), reason))
        else:
            photos.append(Photo(name, path.relative_to(images).parts[0]))
    if not photos:
        raise InputError(
            f"{images.as_posix()}: none of its {len(files)} files is a usable photo"
            + (f" ({rejected[0].path}: {rejected[0].reason})" if rejected else "")
            + f"; {expected}"
        )
    return photos, rejected


def landmark_folders(images: Path) -> str:
    """Raise `InputError` where `images` is missing or holds no class folder; returns what is expected."""
    expected = f"expected one folder of photos per landmark, as in {images.as_posix()}/<landmark>/photo.jpg"
    if not images.is_dir():
        raise InputError(f"{images.as_posix()}: no such folder; {expected}")
    if not any(entry.is_dir() and not entry.name.startswith(".") for entry in images.iterdir()):
        raise InputError(f"{images.as_posix()}: no class folder in it; {expected}")
    return expected


def printable(path: Path) -> str:
    """`path` with `/`, and with escapes for what is not UTF-8 in it."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def visible_files(folder: Path) -> Iterator[Path]:
    """The files in `folder` and in the folders below it; not those whose names begin with a dot."""
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _leads_back(Path(parent, name))
        )
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})")


def _leads_back(folder: Path) -> bool:
    """Whether `folder` is a link to a folder above it, which would be walked for ever."""
    return folder.is_symlink() and any(folder.samefile(above) for above in folder.absolute().parents)


def _check(path: Path, images: Path, max_pixels: int) -> tuple[bytes, str]:
    """The digest of the content, and why the file is not a photo of a landmark, or ''."""
    if path.parent == images:
        return b"", "lies in no class folder"
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        return b"", "its name is not UTF-8"
    if "\r" in path.as_posix():  # which Python's CSV writer leaves unquoted
        return b"", "its name has a carriage return"
    try:
        decode(path, max_pixels)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest(), ""
    except (ValueError, OSError) as error:
        return b"", str(error)


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
