"""Rankings that are not a search in the features that the stage `rerank` reads with them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from landmarks import hdf5
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.searching import features
from stages import rerank, retrieve


def describe(part, photos):
    """Write a store of `photos`, each described by numbers of its own."""
    rows = np.array(
        [np.random.default_rng([*photo.image_path.encode()]).random(8) for photo in photos], np.float32
    )
    with hdf5.writing(Path("features", f"{part}.h5"), features.KIND) as file:
        features._write(file, rows, photos, {"kind": "timm", "model_sha256": "12ab"})


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Of each part, those in whose features the rankings are a search."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[2] / "params.yaml", ".")
    parts = {
        part: [Photo(f"{part}/{number}.jpg", f"landmark {number % 3}") for number in range(count)]
        for part, count in (("index", 9), ("test", 5))
    }
    for part, of_part in parts.items():
        describe(part, of_part)
    retrieve.main()
    return parts


def turned(photos):
    return photos[::-1]


def moved(photos):
    return [*photos[:-1], photos[-1]._replace(class_image="landmark 3")]


def renamed(photos):
    return [photos[0]._replace(image_path="other.jpg"), *photos[1:]]


def more(photos):
    return [*photos, Photo("other.jpg", "landmark 0")]


def fewer(photos):
    return photos[:-1]


@pytest.mark.parametrize("part", ["index", "test"])
@pytest.mark.parametrize("changed", [turned, moved, renamed, more, fewer])
def test_rankings_of_other_photos_than_are_described_are_refused(photos, part, changed):
    rerank.main()
    whole = Path("rankings/reranked.h5").read_bytes()
    describe(part, changed(photos[part]))
    with pytest.raises(InputError, match=r"^rankings/retrieved\.h5: not a search in features/ as it is now"):
        rerank.main()
    assert Path("rankings/reranked.h5").read_bytes() == whole
