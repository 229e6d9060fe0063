"""The photos that the rows of an HDF5 file belong to."""

from collections.abc import Sequence

import h5py
import numpy as np

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


def read_photos(file: h5py.File, prefix: str) -> list[Photo]:
    """Read what `write_photos` wrote."""
    paths, classes = (file[prefix + field].asstr()[:] for field in HEADER)
    boxes = file[prefix + "box"][:].tolist() if prefix + "box" in file else [[np.nan]] * len(paths)
    return [
        Photo(path, name, None if np.isnan(box).any() else tuple(box))
        for path, name, box in zip(paths, classes, boxes, strict=True)
    ]
