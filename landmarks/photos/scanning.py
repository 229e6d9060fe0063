"""Telling the photos of a dataset from its other files: damaged photos, copies and what is no photo."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmarks.errors import InputError
from landmarks.photos import near_copies
from landmarks.photos._proving import prove
from landmarks.photos.catalog import Photo, Rejected
from landmarks.photos.folders import EXPECTED, photo_files, printable
from landmarks.photos.images import in_order, read, stored
from landmarks.photos.near_copies import Hashes
from landmarks.progress import tqdm

AT_ONCE = 8
"""Files for a thread to check at a time: handing over small ones singly takes as long as checking them."""

SMALL = 8 << 10
"""Bytes of a photo of some 160 x 120 pixels, 50,000 of which one thread checks a sixth faster than two."""


class Scan(NamedTuple):
    """What is below `data/<dataset>/images/`, by path."""

    photos: list[Photo]
    rejected: list[Rejected]
    contents: list[str]
    """For each photo, the SHA-256 of its file, hexadecimal."""
    hashes: Hashes
    """For each photo, uint64 (N, 2)."""
    labels: NDArray[np.intp]
    """For each photo, what `near_copies.clusters` says, copies included: (N,)."""


def scan(images: Path, max_pixels: int, keep_copies: bool = False) -> Scan:
    """Sort every file below `images` into photos and rejected files.

    Each photo is proved to be whole. What is hidden or made by a system is left out. Of photos that are the
    same byte for byte, or upright pixel for pixel, only the first by path stays, unless `keep_copies`. Raises
    `InputError` if `images` is missing, or holds no class folder, a linked folder or no usable photo.
    """
    files = photo_files(images)
    some = (files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE))
    checks = chain.from_iterable(
        in_order(lambda paths: [_check(path, images, max_pixels) for path in paths], some, _threads(files))
    )
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
    hashes = np.array([checked.hashes for checked in whole.values()], np.uint64).reshape(-1, 2)
    labels = near_copies.clusters(hashes)
    if not keep_copies:
        same = _same_pixels(whole, labels)
        kept = [path not in same for path in whole]
        hashes, labels = hashes[kept], labels[kept]
        for path, first in same.items():
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
        hashes,
        labels,
    )


def _threads(files: Sequence[Path]) -> int | None:
    """One where the `files` are small, and threads would mostly wait for each other's lock on Python."""
    sizes = [path.stat().st_size for path in files[:: len(files) // 100 + 1] if path.is_file()]
    return 1 if sizes and np.mean(sizes) < SMALL else None


class _Whole(NamedTuple):
    digest: bytes
    """SHA-256 of the file."""
    size: tuple[int, int]
    hashes: tuple[int, int]


def _same_pixels(whole: Mapping[Path, _Whole], labels: NDArray[np.intp]) -> dict[Path, Path]:
    """For each photo that has the same pixels as one before it, the first of those."""
    paths = list(whole)
    candidates: list[Path] = []
    for rows in near_copies.alike(labels):
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
