"""Files and folders that are whole or absent: written under a temporary name, renamed when complete."""

import errno
import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landmarks.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it to `path` if the block succeeds.

    Raises `InputError` if the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder` to fill; if the block succeeds, it takes the place of `folder`.

    Until then the old one stays. What a killed run has left is removed by the next. Raises `InputError` as
    `replacing` does.
    """
    new, old = (folder.with_name(f".{folder.name}{suffix}") for suffix in (".tmp", ".old.tmp"))

    def tidy() -> None:
        if old.exists() and not folder.exists():  # stopped between the two renames below
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)

    with explained(folder):
        tidy()
        new.mkdir(parents=True)
        try:
            yield new
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            tidy()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the errors of a full or unwritable disk into an `InputError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{path}: the disk is full; free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        raise


def unreadable(path: Path, error: OSError) -> InputError:
    """What to tell of `path`, which the system does not let us read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file; `dvc repro` makes it")
    return InputError(f"{path}: cannot be read ({os.strerror(error.errno) if error.errno else error})")


def damaged(path: Path, what: str = "damaged") -> InputError:
    """What to tell of `path`, an output of a stage that is not as the stage wrote it.

    DVC's cache may hold the same bytes as a hard link, and put them back.
    """
    name = shlex.quote(path.as_posix())
    return InputError(
        f"{path}: {what}; to make it anew, run: "
        f"find .dvc/cache -samefile {name} -delete; rm -f {name}; dvc repro"
    )


def other_version(path: Path, version: object, read: int) -> InputError:
    """What to tell of `path`, a file of another `version` of its format than is `read`."""
    return InputError(
        f"{path}: of version {version} of its format, {read} is read; run `dvc repro` to make it anew"
    )


def in_copy() -> bool:
    """Whether this folder is a copy of what Git and DVC track, in which DVC runs a queued experiment."""
    return "/.dvc/tmp/exps/" in Path.cwd().as_posix()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the content of `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
