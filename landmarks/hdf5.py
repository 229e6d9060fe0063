"""HDF5 files that are whole or absent, and that tell where they are damaged."""

import errno
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest, xxh3_128

from landmarks.errors import InputError
from landmarks.files import damaged, other_version, replacing, unreadable


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


VERSION = 2
"""Of the layout of the files, which has checksums since then."""
_HEADER = 512
"""Bytes that HDF5 leaves free at the beginning of a file that asks for it, at the least."""
_BLOCK = 256 << 10
"""Bytes of a block of rows with a checksum of its own: what a core's cache holds while it is summed up."""


class RowsWriter:
    """Rows of one dataset in the order in which they come, and a checksum of each block of them."""

    def __init__(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: type) -> None:
        self._file, self._name = file, name
        self._rows = file.create_dataset(name, shape, dtype)  # in one piece, which is the fastest to read
        row = int(np.prod(shape[1:])) * self._rows.dtype.itemsize
        self.each = 1 << max(0, (_BLOCK // max(1, row)).bit_length() - 1)
        self._sums: list[int] = []
        self._begun = xxh3_64()
        self._done = 0

    def append(self, rows: NDArray[Any]) -> None:
        """Write the next rows."""
        rows = np.ascontiguousarray(rows, self._rows.dtype)
        self._rows[self._done : self._done + len(rows)] = rows
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + self.each - self._done % self.each)
            self._begun.update(rows[start:stop].data)
            self._done += stop - start
            if self._done % self.each == 0:
                self._end_block()
            start = stop

    def _end_block(self) -> None:
        self._sums.append(self._begun.intdigest())
        self._begun.reset()

    def end(self) -> None:
        """Write the checksums."""
        if self._done % self.each:
            self._end_block()
        sums = self._file.create_dataset(f"{self._name}_xxh3", data=np.array(self._sums, np.uint64))
        sums.attrs["rows"] = self.each

    def extent(self) -> list[int]:
        """Where in the file the rows lie: the first byte, and how many there are."""
        return [self._rows.id.get_offset() or 0, self._rows.id.get_storage_size()]


class Writer:
    """An HDF5 file that is being written."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._rows: list[RowsWriter] = []

    def rows(self, name: str, shape: tuple[int, ...], dtype: type) -> RowsWriter:
        """A dataset of `shape`, whose rows are then appended one after the other."""
        self._rows.append(RowsWriter(self.file, name, shape, dtype))
        return self._rows[-1]

    def end(self) -> list[list[int]]:
        """Write what is left; returns where the rows lie."""
        for rows in self._rows:
            rows.end()
        self.file.flush()
        return sorted(extent for rows in self._rows if (extent := rows.extent())[1])


@contextmanager
def writing(path: Path, kind: str) -> Iterator[Writer]:
    """Write an HDF5 file of `kind` that is whole or absent. Raises `InputError` where the disk is full.

    Before what HDF5 reads stands a line that tells the kind, the version, where the rows lie, and the
    checksum of all else. So nothing of a damaged file reaches HDF5, which may crash or never return.
    """
    with replacing(path) as temporary, _Disk(temporary, "w+") as disk:
        try:
            with h5py.File(disk, "w", userblock_size=_HEADER) as file:
                writer = Writer(file)
                yield writer
                extents = writer.end()
        finally:
            if disk.error:
                raise disk.error
        head = {"format": kind, "version": VERSION, "rows": extents, "xxh3": _sum_of_others(disk, extents)}
        disk.seek(0)
        disk.write(json.dumps(head).ljust(_HEADER - 1).encode() + b"\n")
        if disk.error:
            raise disk.error


def _sum_of_others(file: io.RawIOBase | io.BufferedIOBase, extents: list[list[int]]) -> str:
    """The checksum of a file but for its first line and its rows."""
    size = file.seek(0, io.SEEK_END)
    digest = xxh3_128(size.to_bytes(8))
    position = _HEADER
    for start, length in [*extents, [size, 0]]:
        file.seek(position)
        while position < start:
            content = file.read(min(1 << 20, start - position))
            if not content:
                break
            digest.update(content)
            position += len(content)
        position = start + length
    return digest.hexdigest()


def _check_head(path: Path, kind: str) -> None:
    """Raise `InputError` where `path` is of another kind or version, or damaged but for its rows."""
    with path.open("rb") as file:
        line = file.read(_HEADER)
        if line[:8] == b"\x89HDF\r\n\x1a\n":
            raise other_version(path, 1, VERSION)
        try:
            head = json.loads(line)
            told, version, extents = head["format"], head["version"], head["rows"]
            whole = head["xxh3"] == _sum_of_others(file, [[int(at), int(length)] for at, length in extents])
        except (ValueError, TypeError, LookupError, OverflowError):
            raise damaged(path, f"damaged, or no file of {kind}") from None
    if version != VERSION:
        raise other_version(path, version, VERSION)
    if not whole or told != kind:
        raise damaged(path, f"damaged, or no file of {kind}")


@contextmanager
def opened(path: Path, kind: str) -> Iterator[h5py.File]:
    """Open an HDF5 file of `kind` to read. Raises `InputError` where it is none, or cannot be read.

    Without a lock: not every file system has them, and files that are replaced as a whole need none.
    """
    try:
        _check_head(path, kind)
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if told := _told(path, error):
            raise told from None
        raise damaged(path, f"not an HDF5 file ({error})") from None
    with file:
        try:
            yield file
        except OSError as error:  # which may come from elsewhere
            told = _told(path, error) if f"filename = '{path}'" in str(error) else None
            if told is None:
                raise
            raise told from None


class Rows:
    """What `Writer.rows` wrote, read where it is sliced; a block is checked when it is first read."""

    def __init__(
        self, path: Path, file: h5py.File, name: str, shape: tuple[int | None, ...], dtype: type
    ) -> None:
        """Raises `ValueError` where it has another `shape` or `dtype`, or does not lie in this file."""
        self._path, self._rows = path, plain(file, name, shape, dtype)
        size = self._rows.size * self._rows.dtype.itemsize
        if self._rows.id.get_storage_size() != size:
            raise ValueError(f"{name} has {self._rows.id.get_storage_size()} of its {size} bytes")
        self.shape, self.dtype = self._rows.shape, self._rows.dtype
        self.each = int(file[f"{name}_xxh3"].attrs["rows"])
        if self.each < 1:
            raise ValueError(f"{name} has blocks of {self.each} rows")
        self._sums = plain(file, f"{name}_xxh3", (-(-len(self) // self.each),), np.uint64)[:]
        self._checked = np.zeros(len(self._sums), np.bool_)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All rows, for `np.asarray`."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """The rows of a slice without a step."""
        start, stop, _ = rows.indices(len(self))
        out = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        if len(out):
            self.read_direct(out, np.s_[start:stop])
        return out

    def read_direct(self, out: NDArray[Any], rows: slice) -> None:
        """Read `rows` into `out`, as h5py's datasets do. Raises `InputError` where they are damaged."""
        start, stop, _ = rows.indices(len(self))
        self._rows.read_direct(out, np.s_[start:stop])
        for block in range(start // self.each, -(-stop // self.each)):
            if self._checked[block]:
                continue
            first, last = block * self.each, min((block + 1) * self.each, len(self))
            part = (
                out[first - start : last - start]
                if start <= first and last <= stop
                else self._rows[first:last]
            )
            if xxh3_64_intdigest(part.data) != int(self._sums[block]):
                raise damaged(self._path, f"rows {first} to {last - 1} are damaged")
            self._checked[block] = True


def plain(file: h5py.File, name: str, shape: tuple[int | None, ...], dtype: Any) -> h5py.Dataset:
    """The dataset `name`, of a `shape` with None for any size.

    Raises `ValueError` where it has another shape or type, or lies in another file.
    """
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is {'missing' if link is None else 'a link to elsewhere'}")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} is not stored in this file")
    fits = len(dataset.shape) == len(shape) and all(
        size in (has, None) for has, size in zip(dataset.shape, shape, strict=True)
    )
    if not fits or dataset.dtype != dtype:
        raise ValueError(f"{name} is {dataset.dtype} {dataset.shape}, expected {np.dtype(dtype)} {shape}")
    return dataset


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
