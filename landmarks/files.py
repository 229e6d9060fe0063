"""Files that are whole or absent: written under a temporary name, renamed when complete."""

import errno
import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landmarks.errors import DamagedError, InputError


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


def damaged(path: Path, what: str = "damaged", *others: Path) -> DamagedError:
    """What to tell of `path`, an output of a stage that is not as the stage wrote it, or one of `others`.

    DVC's cache may hold the same bytes as a hard link, and put them back.
    """
    names = [shlex.quote(each.as_posix()) for each in (path, *others)]
    found = "".join(f"find .dvc/cache -samefile {name} -delete; " for name in names)
    return DamagedError(f"{path}: {what}; to make it anew, run: {found}rm -f {' '.join(names)}; dvc repro")


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
