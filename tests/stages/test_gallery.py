"""The stage `gallery`: a folder that is whole, or the old one."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from landmarks import params
from landmarks.errors import InputError
from landmarks.photos import ground_truth
from landmarks.photos.catalog import Photo
from landmarks.searching import rankings
from landmarks.searching.rankings import Block
from stages import gallery

LANDMARKS = ["castle", "故宫", "tower, old"]
QUERIES, INDEX = (
    [Photo(f"data/mine/images/{name}/{of}{n}.jpg", name) for name in LANDMARKS for n in range(2)]
    for of in "qi"
)
SHEETS = {f"{kind}/{place:02}.jpg" for kind in ("sample", "worst") for place in range(1, 7)}


@pytest.fixture
def drawn(tmp_path, monkeypatch, make_photo):
    """A gallery in the repository that it was drawn in."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[2] / params.PATH, params.PATH)
    for seed, photo in enumerate(QUERIES + INDEX):
        make_photo(Path(photo.image_path), seed)
    rows = np.array([np.roll(np.arange(6), -query) for query in range(6)], np.int32)
    block = Block(rows, np.sort(np.random.default_rng(0).random((6, 6), np.float32)))
    attributes = {"distance": "L1", "rerank": "one", "backbone": "x"}
    classes = [photo.class_image for photo in QUERIES]
    rankings.write(Path("rankings/reranked.h5"), QUERIES, INDEX, 6, [block], attributes, classes)
    ground_truth.write(Path("data/ground_truth.csv"), {})
    gallery.main()
    return contents()


def contents():
    paths = [path for path in gallery.FOLDER.rglob("*") if path.is_file()]
    return {path.relative_to(gallery.FOLDER).as_posix(): path.read_bytes() for path in paths}


def test_a_gallery_has_its_sheets_and_its_page_and_nothing_is_left_beside_it(drawn):
    assert set(drawn) == SHEETS | {"index.html"}
    (gallery.FOLDER / "sample" / "of another run.jpg").touch()
    gallery.main()
    assert contents() == drawn
    assert list(gallery.FOLDER.parent.iterdir()) == [gallery.FOLDER]


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def nothing(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [Path.unlink, cut, nothing])
@pytest.mark.parametrize("photo", [QUERIES[0], QUERIES[-1], INDEX[3]], ids=lambda photo: photo.image_path)
def test_a_photo_that_cannot_be_read_is_named_and_the_old_gallery_stays(drawn, spoil, photo):
    gallery.gallery._small.cache_clear()
    spoil(Path(photo.image_path))
    with pytest.raises(InputError, match=f"^{re.escape(photo.image_path)}: "):
        gallery.main()
    assert contents() == drawn
    assert list(gallery.FOLDER.parent.iterdir()) == [gallery.FOLDER]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), MemoryError(), OSError(28, "No space left on device")])
def test_a_gallery_that_was_not_finished_keeps_the_old_one(drawn, monkeypatch, stop):
    def stopped(*_):
        raise stop

    monkeypatch.setattr(gallery.gallery, "page", stopped)
    with pytest.raises(InputError if isinstance(stop, OSError) else type(stop)):
        gallery.main()
    assert contents() == drawn
    assert list(gallery.FOLDER.parent.iterdir()) == [gallery.FOLDER]


def test_rankings_that_are_no_rankings_leave_the_old_gallery(drawn):
    nothing(Path("rankings/reranked.h5"))
    with pytest.raises(InputError, match=r"rankings/reranked\.h5: "):
        gallery.main()
    assert contents() == drawn
