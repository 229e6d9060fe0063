"""The HDF5 feature store: the descriptors of a part of the photos, row by row in CSV order."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmarks import hdf5
from landmarks.describing.describers import Describer
from landmarks.errors import InputError
from landmarks.files import explained, held, unheld
from landmarks.photos.catalog import Photo
from landmarks.progress import tqdm
from landmarks.searching.photo_rows import read_photos, write_photos

KIND = "landmarks features"
BLOCK_BYTES = 16 << 20

log = logging.getLogger(__name__)


class Store(NamedTuple):
    """An open feature store; `features` is read from the file where it is sliced."""

    features: "hdf5.Rows | NDArray[np.float32]"
    """float32 (N, D)."""
    photos: list[Photo]
    attributes: dict[str, Any]

    @property
    def zeros_last(self) -> bool:
        """Whether a zero vector means that there is nothing to compare, as a photo without keypoints does."""
        return bool(self.attributes.get("kind") == "vlad")


def extract(
    path: Path, photos: Sequence[Photo], describer: Describer, attributes: Mapping[str, Any], batch_size: int
) -> None:
    """Describe `photos` and write their store to `path`.

    Batches go to `<path>.partial` as they come, and a later call with the same photos, attributes and
    batch size goes on after the last whole batch. The store itself is written in one go at the end, so
    its bytes do not depend on interruptions. Raises `InputError` if a photo is gone or does not
    decode, a descriptor is not finite, or the disk is full.
    """
    partial = _partial(path)
    fingerprint = _fingerprint(photos, attributes, batch_size)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(partial):
            _describe(partial, photos, describer, fingerprint, batch_size)
            rows = np.memmap(partial, np.float32, "r", _HEADER, (len(photos), describer.dimensions))
            with hdf5.writing(path, KIND) as file:
                _write(file, rows, photos, attributes)
            del rows  # Windows deletes no file that is mapped
            partial.unlink()


def sweep(path: Path, store: Store, batch_size: int) -> None:
    """Remove the `<path>.partial` of a killed `extract` that nothing is lost with.

    That one holds rows of `store` itself, the one at `path`, made in batches of `batch_size`; or none; or it
    is not of this format. One of other photos or of another model stays, since `extract` goes on from it when
    it is asked for those again.
    """
    partial = _partial(path)
    # InputError: of a photo that is gone, so that nothing can be known.
    with suppress(OSError, InputError), unheld(partial) as ours, partial.open("rb") as file:
        begun = _BEGUN.match(file.read(_HEADER + 1))
        own = _fingerprint(store.photos, store.attributes, batch_size) if begun else ""
        if ours and (not begun or (begun[0] == own.encode() and _holds(store, file))):
            partial.unlink()


def _holds(store: Store, partial: BinaryIO) -> bool:
    """Whether the rows in `partial` are the first of `store`, which may be of photos as they once were."""
    partial.seek(_HEADER)
    dimensions = store.features.shape[1]
    start, each = 0, block_rows(dimensions)
    while len(rows := np.fromfile(partial, np.float32, each * dimensions)) >= dimensions:
        rows = rows[: len(rows) // dimensions * dimensions].reshape(-1, dimensions)
        if not np.array_equal(store.features[start : start + len(rows)], rows):
            return False
        start += len(rows)
    return True


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


_HEADER = 64  # the fingerprint, in hexadecimal
_BEGUN = re.compile(rb"[0-9a-f]{64}(?=.)", re.DOTALL)


def _describe(
    partial: Path, photos: Sequence[Photo], describer: Describer, fingerprint: str, batch_size: int
) -> None:
    with partial.open("a+b") as file:
        file.seek(0)
        batch_bytes = 4 * describer.dimensions * batch_size
        size = partial.stat().st_size
        if file.read(_HEADER) == fingerprint.encode():
            done = (size - _HEADER) // batch_bytes * batch_size
            if size == _HEADER + 4 * describer.dimensions * len(photos):
                done = len(photos)
            file.truncate(_HEADER + 4 * describer.dimensions * done)
            log.info("going on after %d of %d photos", done, len(photos))
        else:
            done = 0
            file.truncate(0)
            file.write(fingerprint.encode())
        sources = [photo.source for photo in photos]
        with tqdm(total=len(sources), initial=done, desc=f"describing {partial.stem}", unit="photo") as bar:
            for block in describer.describe(sources[done:], batch_size):
                finite = np.isfinite(block).all(axis=1)
                if not finite.all():
                    path = photos[done + int(finite.argmin())].image_path
                    raise InputError(
                        f"{path}: its descriptor is not finite; the weights of the model are broken"
                    )
                file.write(block.astype(np.float32).tobytes())
                file.flush()
                done += len(block)
                bar.update(len(block))


def _fingerprint(photos: Sequence[Photo], attributes: Mapping[str, Any], batch_size: int) -> str:
    """What partial descriptors depend on; a batch gives the same bits only when batched the same way."""
    known = json.dumps([attributes, batch_size], sort_keys=True, default=lambda read: read.tolist())
    digest = hashlib.sha256(known.encode())
    for photo in photos:
        try:
            stat = Path(photo.image_path).stat()
        except FileNotFoundError:
            raise InputError(
                f"{photo.image_path}: gone since the catalog was made; put it back, or run `dvc repro` again"
            ) from None
        except OSError as error:
            raise InputError(f"{photo.image_path}: cannot be read ({error.strerror})") from None
        digest.update(json.dumps([*photo, stat.st_size, stat.st_mtime_ns]).encode())
    return digest.hexdigest()


def _write(
    file: hdf5.Writer, rows: NDArray[np.float32], photos: Sequence[Photo], attributes: Mapping[str, Any]
) -> None:
    features = file.rows("features", rows.shape, np.float32)
    per_block = block_rows(rows.shape[1])
    for start in range(0, len(rows), per_block):
        features.append(rows[start : start + per_block])
    write_photos(file.file, "", photos)
    file.file.attrs.update(attributes)


def block_rows(dimensions: int) -> int:
    """How many float32 rows of `dimensions` make a block of `BLOCK_BYTES`."""
    return max(1, BLOCK_BYTES // (4 * dimensions))


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    """Open the feature store at `path`. Raises `InputError` where it is none, or damaged."""
    with hdf5.opened(path, KIND) as file:
        try:
            rows = hdf5.Rows(path, file, "features", (None, None), np.float32)
            store = Store(rows, read_photos(file, "", len(rows)), dict(file.attrs))
            if len(set(store.photos)) < len(rows):  # of a photo there may be several boxes
                raise ValueError("a photo is there twice")
            if not isinstance(store.attributes["model_sha256"], str):
                raise ValueError("model_sha256 is no text")
        except hdf5.BROKEN as error:
            raise hdf5.refused(path, error, "a feature store") from None
        yield store
