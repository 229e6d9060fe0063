import h5py
import numpy as np
import pytest

from landmarks.photos.catalog import Photo
from landmarks.searching.photo_rows import read_photos, write_photos

BOXES = np.random.default_rng(0).random((4, 4)).cumsum(axis=1).tolist()  # which float32 does not hold


@pytest.mark.parametrize("boxes", [[None] * 4, [None, *BOXES[:3]], BOXES, [*BOXES[:1], None, None, None]])
def test_photos_are_read_as_they_were_written_beside_others(boxes):
    names = ["001", "NA", "a,b", "H\u1ebf"]
    photos = [Photo(f"{name}.jpg", name, box and tuple(box)) for name, box in zip(names, boxes, strict=True)]
    others = [Photo("other.jpg", "")]
    with h5py.File.in_memory() as file:
        write_photos(file, "query_", photos)
        write_photos(file, "index_", others)
        assert read_photos(file, "query_") == photos
        assert read_photos(file, "index_") == others
