"""The photos that the rows of an HDF5 file belong to."""

from collections.abc import Sequence

import h5py
import numpy as np

from landmarks.hdf5 import plain
from landmarks.photos.catalog import BOX, HEADER, Photo


def write_photos(file: h5py.File, prefix: str, photos: Sequence[Photo]) -> None:
    """Write `<prefix>image_path` and `<prefix>class_image`, UTF-8 (N,).

    Where one of them has a box, also `<prefix>box`, float64 (N, 4), NaN for those that have none.
    """
    for field in HEADER:
        values = [getattr(photo, field) for photo in photos]
        file.create_dataset(prefix + field, data=values, dtype=h5py.string_dtype())
    if any(photo.box for photo in photos):
        file[prefix + "box"] = np.array([photo.box or [np.nan] * len(BOX) for photo in photos], np.float64)


def read_photos(file: h5py.File, prefix: str, count: int | None = None) -> list[Photo]:
    """Read what `write_photos` wrote of `count` photos, None for any number of them.

    Raises `ValueError` where they are not so many, or a path does not lie in the repository.
    """
    paths = read_texts(file, prefix + HEADER[0], count)
    names: dict[str, str] = {}  # each landmark's once, for an index may have millions of photos
    classes = [names.setdefault(name, name) for name in read_texts(file, prefix + HEADER[1], len(paths))]
    for path in paths:
        if not path or path[0] == "/" or (".." in path and ".." in path.split("/")):
            raise ValueError(f"{path!r} is no path in the repository")
    if prefix + "box" not in file:
        return list(map(Photo, paths, classes))
    boxes = plain(file, prefix + "box", (len(paths), len(BOX)), np.float64)[:].tolist()
    return [
        Photo(path, name, None if np.isnan(box).any() else (box[0], box[1], box[2], box[3]))
        for path, name, box in zip(paths, classes, boxes, strict=True)
    ]


def read_texts(file: h5py.File, name: str, count: int | None = None) -> list[str]:
    """The dataset `name` of `count` texts, None for any number. Raises `ValueError` where it is none."""
    texts: list[str] = plain(file, name, (count,), h5py.string_dtype()).asstr()[:].tolist()
    return texts
