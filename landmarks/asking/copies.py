"""What `landmarks query --out` leaves: a contact sheet of each photo and copies of its results."""

import os
import re
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from unicodedata import normalize

from landmarks.asking.questions import Answer, Index
from landmarks.errors import InputError
from landmarks.files import explained
from landmarks.photos.folders import printable
from landmarks.scoring import gallery
from landmarks.scoring.measures import NO_CLASS

RESULTS = ("query_path", "predicted_class", "rank", "distance", "image_path", "class_image")


def make_empty(folder: Path) -> None:
    """Make `folder`. Raises `InputError` if there is something in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {folder}: cannot be made ({error.strerror})") from None
    if any(folder.iterdir()):
        raise InputError(f"--out: {folder} is not empty; name a new folder")


def save(out: Path, name: str, index: Index, photo: Path, answer: Answer) -> list[tuple[object, ...]]:
    """Write the contact sheet of a query and copies of its results; returns its rows of results.csv."""
    tiles = [gallery.Tile(photo, [photo.name, answer.told], None)]
    tiles += [
        gallery.Tile(index.root / found.image_path, [found.class_image, f"{distance:.4f}"], None)
        for _, _, found, distance in answer.results
    ]
    rows: list[tuple[object, ...]] = []
    with explained(out):
        gallery.contact_sheet(tiles).save(out / f"{name}.jpg", quality=85)
        (out / name).mkdir()
        for rank, _, found, distance in answer.results:
            source = index.root / found.image_path
            copy = _file_name(f"{rank:02} {found.class_image} {source.name}")
            shutil.copyfile(source, out / name / copy)
            told = _plain(answer.landmark or NO_CLASS), rank, f"{distance:.6g}"
            rows.append(
                (_plain(printable(photo)), *told, _plain(found.image_path), _plain(found.class_image))
            )
    return rows


def _plain(name: str) -> str:
    """`name` so that no spreadsheet computes it (OWASP, "CSV Injection")."""
    return f"'{name}" if name.startswith(tuple("=+-@\t\r")) else name


class Names:
    """Names for answers in a folder: there is neither a sheet `<name>.jpg` nor a folder `<name>` yet.

    Names are told apart as by the file systems that tell the fewest apart: not by case, nor by how letters
    are composed.
    """

    def __init__(self, *taken: str) -> None:
        self.taken = set(map(_folded, taken))
        self.numbers: dict[str, Iterator[int]] = {}

    def free(self, stem: str) -> str:
        """`stem` as a name that is free, and taken from now on; with a number after it where need be."""
        if self._take(name := _file_name(stem, 255 - len(".jpg"))):
            return name
        # Cut for numbers of any length, so that one counter serves all that are the same up to there.
        base = _file_name(stem, 230)
        numbers = self.numbers.setdefault(_folded(base), count(2))
        return next(name for number in numbers if self._take(name := f"{base} ({number})"))

    def _take(self, name: str) -> bool:
        made = {_folded(name), _folded(f"{name}.jpg")}
        if free := self.taken.isdisjoint(made):
            self.taken |= made
        return free


def _folded(name: str) -> str:
    return normalize("NFKD", normalize("NFKD", name).casefold())


def _file_name(name: str, longest: int = 255) -> str:
    """`name` as a name that is not hidden, that other systems take, too, and of `longest` bytes at most.

    What is cut off stands before the suffix.
    """
    name = os.fsencode(name).decode("utf-8", "backslashreplace")
    name = re.sub(r'[\x00-\x1f"*/:<>?\\|]|^[. ]', "_", name).rstrip(". ") or "_"
    name = re.sub(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", r"\1_", name)  # devices of Windows
    if len(name.encode()) <= longest:
        return name
    stem, suffix = os.path.splitext(name)  # noqa: PTH122, for a Path takes no name alone
    if len(suffix.encode()) > 16:
        stem, suffix = name, ""
    return stem.encode()[: longest - len(suffix.encode())].decode(errors="ignore").rstrip(". ") + suffix
