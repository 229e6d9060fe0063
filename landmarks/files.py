"""Files and folders that are whole or absent: written under a temporary name, renamed when complete."""

import errno
import hashlib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from landmarks.errors import DamagedError, InputError

try:
    import fcntl
except ImportError:  # Windows, which deletes no file that is open
    fcntl = None  # type: ignore[assignment]

TEMPORARIES = (
    *("data/.*.csv*.tmp", "data/splits/.*.tmp", "data/*/.images.tmp", "data/*/.images.old.tmp"),
    *("models/.*.tmp", "models/checkpoints/*/.*.tmp", "features/.*.tmp", "rankings/.*.tmp"),
    *("reports/.*.tmp", "reports/plots/.*.tmp"),
)
"""Those of the files and folders that stages write; in the folders of data, users keep files of their own."""

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it to `path` if the block succeeds.

    Raises `InputError` if the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(temporary):
            try:
                yield temporary
                temporary.replace(path)
            except BaseException:  # else the name may be another process's by now
                temporary.unlink(missing_ok=True)
                raise


@contextmanager
def held(path: Path, *, folder: bool = False) -> Iterator[None]:
    """Hold the file or the `folder` at `path`, which is made where it is missing; one process at a time does.

    Others wait: where DVC was killed, its stage goes on, and the same stage of the next `dvc repro` would
    write to the same file. Where there are no locks, nobody waits, and `unheld` leaves everything alone.
    """
    lock = _held(path, folder)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _held(path: Path, folder: bool) -> int | None:
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        if sys.platform == "win32" or fcntl is None:
            return None
        try:
            lock = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if folder:  # swept in between
                continue
            raise
        try:
            _wait(lock, path)
        except OSError:
            os.close(lock)
            return None
        if _is_at(lock, path):
            return lock
        os.close(lock)  # swept, or the other process's file is complete


def _wait(lock: int, path: Path) -> None:
    if sys.platform != "win32":  # for mypy; there is no lock to wait for
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: waiting for another process to finish it", path)
            fcntl.flock(lock, fcntl.LOCK_EX)


def _is_at(lock: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), path.stat())
    return False


@contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Whether no process holds `path`, which none will before the block ends; false where nobody can tell."""
    if sys.platform == "win32" or fcntl is None:
        yield False
        return
    try:
        kind = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR
        lock = os.open(path, kind | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # also of another user's, and in a folder that is only read
        yield False
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = _is_at(lock, path)  # not renamed in between
        except OSError:
            free = False
        yield free
    finally:
        os.close(lock)


def sweep() -> None:
    """Remove what killed stages have left beside their outputs: temporaries that no process holds.

    The stage that writes the file would do so, but does not run where DVC has the file in its cache. What
    cannot be removed stays, without a word.
    """
    for pattern in TEMPORARIES:
        with suppress(OSError):
            for temporary in Path().glob(pattern):
                if temporary.with_name(temporary.name[1:-4].removesuffix(".old")).exists():
                    _remove(temporary)


def _remove(temporary: Path) -> None:
    with suppress(OSError), unheld(temporary) as ours:
        if ours and temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif ours:
            temporary.unlink()


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
        shutil.rmtree(old, ignore_errors=True)

    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(new, folder=True):
            tidy()
            for left in new.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            try:
                yield new
                if folder.exists():
                    folder.rename(old)
                new.rename(folder)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
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


def damaged(path: Path, what: str = "damaged", *others: Path) -> DamagedError:
    """What to tell of `path`, an output of a stage that is not as the stage wrote it, or one of `others`.

    DVC's cache may hold the same bytes, by a hard link or a symbolic one, and put them back.
    """
    names = [shlex.quote(each.as_posix()) for each in (path, *others)]
    found = "".join(f"find -L .dvc/cache -samefile {name} -exec rm -f {{}} +; " for name in names)
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
