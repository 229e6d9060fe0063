"""The folders of a dataset: which files below them may be photos."""

import os
from collections.abc import Iterator
from pathlib import Path

from landmarks.errors import InputError


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
