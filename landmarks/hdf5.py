"""HDF5 files that are whole or absent."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from landmarks.errors import InputError
from landmarks.files import replacing, unreadable


class _Disk(io.FileIO):
    """A file for HDF5 to write to that keeps the first error instead of raising it.

    HDF5 loses errors that occur while it closes, and crashes at exit after them (h5py issue 914).
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)


@contextmanager
def writing(path: Path) -> Iterator[h5py.File]:
    """Write an HDF5 file that is whole or absent. Raises `InputError` if the disk is full."""
    with replacing(path) as temporary, _Disk(temporary, "w+") as disk:
        try:
            with h5py.File(disk, "w") as file:
                yield file
        finally:
            if disk.error:
                raise disk.error


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read. Raises `InputError` if it is not one, or cannot be read.

    Without a lock: not every file system has them, and files that are replaced as a whole need none.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if told := _told(path, error):
            raise told from None
        raise InputError(f"{path}: not an HDF5 file ({error}); delete it and run `dvc repro`") from None
    with file:
        try:
            yield file
        except OSError as error:  # which may come from elsewhere
            told = _told(path, error) if f"filename = '{path}'" in str(error) else None
            if told is None:
                raise
            raise told from None


BROKEN = (KeyError, OSError, RuntimeError, ValueError)
"""What h5py raises where a file does not hold what is read from it, or is damaged."""


def refused(path: Path, error: Exception, what: str) -> InputError:
    """What to tell of `path` after the `error`, one of `BROKEN`, of reading it as `what`."""
    told = _told(path, error) if isinstance(error, OSError) else None
    return told or InputError(f"{path}: not {what} ({error}); `dvc repro` makes it")


def _told(path: Path, error: OSError) -> InputError | None:
    """What to tell of `path` where it may well be whole; None where HDF5 has read that it is not."""
    if "unable to lock" in str(error):  # an environment variable asks for it
        return InputError(
            f"{path}: locked by another program, or on a file system that has no locks "
            f"({os.strerror(error.errno or errno.ENOLCK)}); set HDF5_USE_FILE_LOCKING=FALSE to read it"
        )
    if "already open" in str(error):
        return InputError(f"{path}: another program writes to it, or broke off doing so ({error})")
    return unreadable(path, error) if error.errno else None
