from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from landmarks.errors import InputError
from landmarks.params import Geometric
from landmarks.reranking import geometric

SIFT = Geometric(
    features="sift",
    keypoints=1000,
    max_side=1024,
    ratio=0.8,
    model="homography",
    threshold=5.0,
    min_inliers=10,
)
ORB = SIFT.model_copy(update={"features": "orb"})
SIDE = 320
# What the plane looks like from another side: x, y, 1 of the first view to those of the second.
VIEW = np.array([[0.85, 0.12, 20], [-0.1, 0.9, 35], [2e-4, 1e-4, 1]])


def facade(seed):
    """Painted tiles of the same kind wherever they stand: (SIDE, SIDE) uint8."""
    rng = np.random.default_rng(seed)
    noise = sum(gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) * s for s in (2, 4, 8))
    return np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8)


def seen_from_the_side(picture):
    return cv2.warpPerspective(picture, VIEW, (SIDE, SIDE), borderValue=128)


def shuffled(picture, seed=0):
    """The same tiles of 40 pixels, each at another place: like descriptors, another geometry."""
    tiles = picture.reshape(8, 40, 8, 40).swapaxes(1, 2).reshape(64, 40, 40)
    tiles = tiles[np.random.default_rng(seed).permutation(64)]
    return tiles.reshape(8, 8, 40, 40).swapaxes(1, 2).reshape(SIDE, SIDE)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scene")
    pictures = {
        "query": facade(0),
        "side": seen_from_the_side(facade(0)),
        "shuffled": shuffled(facade(0)),
        "other": facade(1),
        "blank": np.full((64, 48), 200, np.uint8),
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in pictures}


def local(path, options):
    return geometric.local_features(path, options)


def verified(query, results, options, workers=None):
    [counts] = geometric.verified([(query, results)], options, workers)
    return counts


@pytest.mark.parametrize("options", [SIFT, ORB, SIFT.model_copy(update={"model": "affinity"})])
def test_another_view_of_the_plane_stands_out_from_what_only_looks_alike(scene, options):
    query, shuffled = (local(scene[name], options) for name in ("query", "shuffled"))
    assert len(geometric.matches(query, shuffled, options)) > 30
    results = [scene[name] for name in ("shuffled", "other", "side", "blank")]
    counts = verified(scene["query"], results, options)
    assert counts[2] > 4 * counts[0]
    assert counts[[1, 3]].tolist() == [0, 0]


@pytest.mark.parametrize("options", [SIFT, ORB])
def test_inliers_lie_where_the_view_puts_them(scene, options):
    query, side = local(scene["query"], options), local(scene["side"], options)
    pairs = geometric.inliers(query, side, options)
    expected = cv2.perspectiveTransform(query.points[pairs[:, 0]][None].astype(np.float64), VIEW)[0]
    off = np.linalg.norm(side.points[pairs[:, 1]] - expected, axis=1)
    assert np.median(off) < 1
    assert off.max() < 2 * options.threshold
    assert len({*pairs[:, 0].tolist()}) == len({*pairs[:, 1].tolist()}) == len(pairs)


@pytest.mark.parametrize(("options", "norm"), [(SIFT, cv2.NORM_L2), (ORB, cv2.NORM_HAMMING)])
def test_matches_are_those_of_opencvs_brute_force_matcher(scene, options, norm):
    query, side = local(scene["query"], options), local(scene["side"], options)
    descriptors = [query.descriptors, side.descriptors]
    if options is SIFT:
        sums = [part.sum(axis=1, keepdims=True) for part in descriptors]
        descriptors = [
            np.sqrt(part / s).astype(np.float32) for part, s in zip(descriptors, sums, strict=True)
        ]
    best = {}
    for first, second in cv2.BFMatcher(norm).knnMatch(*descriptors, 2):
        if first.distance < options.ratio * second.distance:
            kept = best.get(first.trainIdx)
            if kept is None or first.distance < kept.distance:
                best[first.trainIdx] = first
    found = geometric.matches(query, side, options)
    assert len(found) > 50
    assert {(m.queryIdx, m.trainIdx) for m in best.values()} == {(a, b) for a, b in found.tolist()}


def test_sift_descriptors_are_whole_numbers_so_that_bytes_hold_them(scene):
    grey = np.asarray(Image.open(scene["query"]))
    _, descriptors = cv2.SIFT.create(nfeatures=1000).detectAndCompute(grey, None)
    np.testing.assert_array_equal(local(scene["query"], SIFT).descriptors, descriptors)


@pytest.mark.parametrize("options", [SIFT, ORB])
def test_counts_do_not_depend_on_the_number_of_threads_nor_on_what_is_kept(scene, options):
    results = [scene[name] for name in ("side", "other", "shuffled", "query", "blank")] * 4
    at_first = verified(scene["query"], results, options, workers=1)
    for workers in (4, 1):
        geometric.forget()
        np.testing.assert_array_equal(verified(scene["query"], results, options, workers), at_first)


@pytest.mark.parametrize("options", [SIFT, ORB])
@pytest.mark.parametrize("kept", [0, 1, 3, 9999])
def test_as_many_photos_are_kept_as_there_is_room_for(scene, monkeypatch, options, kept):
    few = options.model_copy(update={"keypoints": 50})
    photo = local(scene["side"], few)
    assert len(photo.points) in (50, 51)  # of equal ones SIFT takes all
    room = geometric.cached_photos(kept * 50 * (photo.points[0].nbytes + photo.descriptors[0].nbytes), few)
    assert room == min(kept, 2000)

    described, features = [], geometric.local_features
    monkeypatch.setattr(
        geometric, "local_features", lambda photo, _: described.append(photo) or features(photo, few)
    )
    geometric.forget()
    results = [scene[name] for name in ("side", "other", "shuffled")] * 2
    list(geometric.verified([(scene["query"], results)], few, 1, room))
    geometric.forget()
    assert len(described) == 1 + (3 if room >= 3 else 6)


def test_counts_of_several_queries_come_in_the_order_of_the_queries(scene):
    tasks = [(scene["query"], [scene["side"]]), (scene["blank"], []), (scene["side"], [scene["other"]] * 2)]
    counts = geometric.verified(tasks, SIFT)
    for (query, results), found in zip(tasks, counts, strict=True):
        assert found.tolist() == verified(query, results, SIFT).tolist()


def test_fewer_inliers_than_asked_count_as_none(scene):
    count = int(verified(scene["query"], [scene["side"]], SIFT)[0])
    strict = SIFT.model_copy(update={"min_inliers": count + 1})
    assert verified(scene["query"], [scene["side"]], strict).tolist() == [0]


def test_a_photo_without_features_matches_nothing(scene):
    assert verified(scene["blank"], [scene["query"], scene["blank"]], SIFT).tolist() == [0, 0]


def test_a_photo_that_is_gone_is_named(scene, tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg: no such file"):
        verified(scene["query"], [tmp_path / "gone.jpg"], SIFT)


def test_opencv_gets_its_threads_back():
    before = cv2.getNumThreads()
    with geometric.one_thread_each():
        assert cv2.getNumThreads() == 1
    assert cv2.getNumThreads() == before


def test_opencv_gets_its_threads_back_from_two_that_come_at_the_same_time():
    before, inside, first_left = cv2.getNumThreads(), Event(), Event()

    def second():
        with geometric.one_thread_each():
            inside.set()
            first_left.wait(timeout=60)

    cv2.setNumThreads(3)
    try:
        with ThreadPoolExecutor(1) as pool:
            with geometric.one_thread_each():
                waiting = pool.submit(second)
                inside.wait(timeout=0.1)  # which it is not, or it would take 1 for what was before
            first_left.set()
            waiting.result()
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("options", [SIFT, ORB])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1000, 2), (3, 3), (3, 1000)])
def test_photos_of_a_pixel_or_two_have_no_features(tmp_path, options, size):
    Image.new("RGB", size).save(tmp_path / "tiny.png")
    assert len(geometric.local_features(tmp_path / "tiny.png", options).points) == 0
