import json
import logging
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from landmarks.describing import vlad
from landmarks.errors import InputError

OPTIONS = {
    "words": 8,
    "keypoints": 60,
    "max_side": 160,
    "root_sift": True,
    "normalization": "signed_sqrt",
    "pca_dimensions": 0,
    "training_descriptors": 200,
    "kmeans_iterations": 10,
    "seed": 7,
}


@st.composite
def descriptors_and_words(draw):
    """SIFT's value range: whole numbers 0 to 255, so that squared distances and their ties are exact.

    Some descriptors lie on words and some words are double, for ties.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = draw(st.sampled_from([1, 3, 255]))
    words = random.integers(0, top + 1, (draw(st.integers(1, 9)), 128))
    if draw(st.booleans()):
        words = np.concatenate([words, words[::-1]])
    descriptors = random.integers(0, top + 1, (draw(st.integers(0, 30)), 128))
    on_words = random.random(len(descriptors)) < draw(st.sampled_from([0, 0.5, 1]))
    descriptors[on_words] = words[random.integers(0, len(words), on_words.sum())]
    return descriptors.astype(np.float32), words.astype(np.float32)


def noise(path, seed, size=(200, 150)):
    """A photo with many keypoints: blocks of random brightness."""
    blocks = np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8)
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [noise(folder / f"{seed}.png", seed) for seed in range(6)]


@pytest.fixture
def blank(tmp_path):
    Image.new("RGB", (120, 90), "white").save(tmp_path / "blank.png")
    return tmp_path / "blank.png"


def sift(image, keypoints=1000, max_side=1024, root_sift=False):
    return vlad.descriptors(image, keypoints=keypoints, max_side=max_side, root_sift=root_sift)


def described(model, paths, **options):
    return np.concatenate(list(model.describe(paths, **options)))


# descriptors


def test_keypoints_is_an_exact_cap_where_responses_tie():
    tile = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    image = np.tile(np.kron(tile, np.ones((8, 8), np.uint8)), (4, 4))
    assert len(cv2.SIFT.create(nfeatures=10).detect(image)) > 10, "the photo has no ties"
    everything = sift(image)
    for cap in (1, 5, 10, 50):
        assert np.array_equal(sift(image, keypoints=cap), everything[:cap])


def test_the_strongest_keypoints_are_kept(photos):
    image = np.asarray(Image.open(photos[0]).convert("L"))
    points, vectors = cv2.SIFT.create().detectAndCompute(image, None)
    strongest = np.argsort([-point.response for point in points])[:20]
    expected = {tuple(row) for row in vectors[strongest]}
    assert {tuple(row) for row in sift(image, keypoints=20)} == expected


def test_root_sift_is_the_root_of_the_l1_normalised_descriptor(photos):
    image = Image.open(photos[0])
    plain = sift(image)
    assert plain.dtype == np.float32
    expected = np.sqrt(plain / plain.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(sift(image, root_sift=True), expected, atol=1e-6)


def test_photos_are_shrunk_but_never_enlarged(photos):
    image = Image.open(photos[0])
    assert np.array_equal(sift(image, max_side=200), sift(image, max_side=5000))
    small = image.convert("L").resize((100, 75), Image.Resampling.BICUBIC)
    assert np.array_equal(sift(image, max_side=100), sift(small))
    grey = image.convert("L")
    sift(grey, max_side=100)
    assert grey.size == (200, 150), "the caller's image was changed"


@pytest.mark.parametrize("size", [(1, 1), (2, 100), (100, 1), (64, 64)])
def test_photos_without_keypoints_have_no_descriptors(size):
    assert sift(Image.new("RGB", size)).shape == (0, 128)


# sample


def test_the_sample_is_balanced_over_photos_and_seeded():
    sizes = [50, 3, 0, 50, 50]
    parts = [np.full((size, 128), photo, np.float32) for photo, size in enumerate(sizes)]
    for part in parts:
        part[:, 1] = np.arange(len(part))
    drawn = vlad.sample(iter(parts), len(parts), 52, seed=1)
    counts = np.bincount(drawn[:, 0].astype(int), minlength=5)
    assert counts[1] == 3
    assert counts[2] == 0
    assert set(counts[[0, 3, 4]]) <= {10, 11}
    assert len(np.unique(drawn, axis=0)) == len(drawn), "a descriptor was drawn twice"
    assert np.array_equal(drawn, vlad.sample(parts, len(parts), 52, seed=1))
    assert not np.array_equal(drawn, vlad.sample(parts, len(parts), 52, seed=2))


def test_a_sample_smaller_than_the_photos_are_many_takes_one_each_of_some():
    parts = [np.full((4, 128), photo, np.float32) for photo in range(10)]
    drawn = vlad.sample(parts, 10, 4, seed=0)
    assert len(np.unique(drawn[:, 0])) == len(drawn) == 4


# words and assignment


def test_words_are_the_centres_of_clusters():
    random = np.random.default_rng(0)
    centres = random.random((5, 128)) * 100
    cloud = np.repeat(centres, 40, axis=0) + random.normal(0, 0.01, (200, 128))
    words = vlad.learn_words(cloud.astype(np.float32), 5, 20, seed=0)
    assert words.dtype == np.float32
    order = np.argsort(words[:, 0])
    np.testing.assert_allclose(words[order], centres[np.argsort(centres[:, 0])], atol=0.02)


def test_too_few_descriptors_for_the_words():
    with pytest.raises(
        InputError, match=r"vlad\.words: 64 .* from 10 training descriptors; lower vlad\.words"
    ):
        vlad.learn_words(np.zeros((10, 128), np.float32), 64, 10, seed=0)


@settings(deadline=None, max_examples=50)
@given(descriptors_and_words())
def test_assignment_is_the_nearest_neighbour_of_scikit_learn(case):
    descriptors, words = case
    assigned = vlad.assign(descriptors, words)
    assert assigned.shape == (len(descriptors),)
    if not len(descriptors):
        return
    distances, neighbours = NearestNeighbors(n_neighbors=len(words)).fit(words).kneighbors(descriptors)
    for row, word in enumerate(assigned):
        # All equally near words, of which scikit-learn may name any first.
        assert word == neighbours[row][distances[row] == distances[row, 0]].min()


def test_ties_go_to_the_lower_word():
    words = np.zeros((4, 128), np.float32)
    words[:, 0] = [9, 2, 0, 2]
    descriptors = np.zeros((3, 128), np.float32)
    descriptors[:, 0] = [1, 2, 0]  # midway between words 1, 2 and 3; on words 1 and 3; on word 2
    assert vlad.assign(descriptors, words).tolist() == [1, 1, 2]


# encoding


def paper_vlad(descriptors, words):
    """v_i = sum over x with NN(x) = c_i of x - c_i (Jégou et al., CVPR 2010, equation 1)."""
    v = np.zeros((len(words), 128))
    for x in descriptors.astype(float):
        i = np.argmin([np.linalg.norm(x - c) for c in words])
        v[i] += x - words[i]
    return v


def root(v):
    v = np.sign(v) * np.sqrt(np.abs(v))
    return v / (np.linalg.norm(v) or 1)


def intra(v):
    v = np.array([row / (np.linalg.norm(row) or 1) for row in v])
    return v / (np.linalg.norm(v) or 1)


@settings(deadline=None)
@given(descriptors_and_words(), st.sampled_from([("signed_sqrt", root), ("intra", intra), ("none", np.copy)]))
def test_encoding_equals_the_statement_of_the_paper(case, normalization):
    name, normalised = normalization
    expected = normalised(paper_vlad(*case)).ravel()
    encoded = vlad.encode(*case, name)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(0, 6), st.just(128)), elements=st.floats(0, 1, width=32)))
def test_encoding_of_any_root_sift_values(descriptors):
    words = np.random.default_rng(0).random((3, 128), dtype=np.float32)
    expected = root(paper_vlad(descriptors, words)).ravel()
    np.testing.assert_allclose(vlad.encode(descriptors, words, "signed_sqrt"), expected, atol=1e-5)


def test_a_case_worked_by_hand():
    words = np.zeros((3, 128), np.float32)
    words[1, 0] = 10
    words[2, 0] = 100  # near to no descriptor
    descriptors = np.zeros((3, 128), np.float32)
    descriptors[0, :2] = [4, 0]  # to word 0, residual (4, 0)
    descriptors[1, :2] = [0, 5]  # to word 0, residual (0, 5)
    descriptors[2, :2] = [1, 0]  # to word 0, residual (1, 0)
    more = np.zeros((1, 128), np.float32)
    more[0, 0] = 6  # to word 1, residual (-4, 0)
    sums = vlad.encode(np.concatenate([descriptors, more]), words, "none").reshape(3, 128)
    assert sums[:, :2].tolist() == [[5, 5], [-4, 0], [0, 0]]
    assert not sums[:, 2:].any()
    encoded = vlad.encode(np.concatenate([descriptors, more]), words, "signed_sqrt").reshape(3, 128)
    # Signed roots (√5, √5), (-2, 0); their norm is √(5 + 5 + 4).
    expected = np.array([[5**0.5, 5**0.5], [-2, 0], [0, 0]]) / 14**0.5
    np.testing.assert_allclose(encoded[:, :2], expected, rtol=1e-6)
    encoded = vlad.encode(np.concatenate([descriptors, more]), words, "intra").reshape(3, 128)
    # Unit per word (1, 1) / √2, (-1, 0); their norm is √2.
    np.testing.assert_allclose(encoded[:, :2], [[0.5, 0.5], [-(0.5**0.5), 0], [0, 0]], rtol=1e-6)


def test_an_unknown_normalization_is_refused():
    with pytest.raises(InputError, match=r"vlad\.normalization: 'l7' is not one of signed_sqrt, intra, none"):
        vlad.encode(np.zeros((1, 128), np.float32), np.ones((2, 128), np.float32), "l7")


# PCA


def test_whitening_equals_scikit_learn_up_to_sign():
    random = np.random.default_rng(0)
    vlads = (random.normal(size=(40, 256)) * np.geomspace(1, 0.01, 256) + 1).astype(np.float32)
    pca = vlad.learn_whitening(np.concatenate([vlads, np.zeros((3, 256), np.float32)]), 12)
    reference = PCA(12, whiten=True, svd_solver="full").fit(vlads.astype(float)).transform(vlads)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    ours = np.stack([pca.apply(row) for row in vlads])
    signs = np.sign(np.sum(ours * reference, axis=0))
    np.testing.assert_allclose(ours * signs, reference, atol=1e-4)
    assert not pca.apply(np.zeros(256, np.float32)).any(), "a zero VLAD has to stay zero"


def test_more_dimensions_than_the_photos_permit_are_refused(photos):
    vlads = np.random.default_rng(0).random((5, 256), dtype=np.float32)
    assert len(vlad.learn_whitening(vlads, 4).projection) == 4
    with pytest.raises(InputError, match=r"vlad\.pca_dimensions: 5 is more than the 4 "):
        vlad.learn_whitening(vlads, 5)
    with pytest.raises(InputError, match=r"vlad\.pca_dimensions: 3 is more than the 2 "):
        vlad.learn_whitening(vlads[[0, 1, 2, 2, 2]], 3)
    with pytest.raises(InputError, match=r"vlad\.pca_dimensions: 6 is more than the 5 "):
        vlad.train(photos, **OPTIONS | {"pca_dimensions": 6})


# training and describing


@pytest.mark.parametrize("pca_dimensions", [0, 3])
def test_training_and_describing_give_the_same_bytes_for_any_number_of_workers(photos, pca_dimensions):
    options = OPTIONS | {"pca_dimensions": pca_dimensions}
    first = vlad.train(photos, **options, workers=1)
    second = vlad.train(photos, **options, workers=3)
    assert {name: a.tobytes() for name, a in first.tensors().items()} == {
        name: a.tobytes() for name, a in second.tensors().items()
    }
    alone, together = described(first, photos, workers=1), described(second, photos, workers=3, batch_size=4)
    assert alone.tobytes() == together.tobytes()
    assert alone.dtype == np.float32
    assert alone.shape == (6, first.dimensions) == (6, pca_dimensions or 8 * 128)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-5)


def test_descriptors_come_in_blocks_in_the_order_of_the_paths(photos):
    model = vlad.train(photos, **OPTIONS)
    blocks = list(model.describe(photos[::-1], batch_size=4))
    assert [len(block) for block in blocks] == [4, 2]
    expected = [
        root(paper_vlad(sift(Image.open(path), 60, 160, root_sift=True), model.words)).ravel()
        for path in photos[::-1]
    ]
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-5)
    assert list(model.describe([])) == []


@pytest.mark.parametrize("pca_dimensions", [0, 3])
def test_a_blank_photo_is_the_zero_vector_and_counted_on_the_log(photos, blank, caplog, pca_dimensions):
    model = vlad.train([*photos, blank], **OPTIONS | {"pca_dimensions": pca_dimensions})
    with caplog.at_level(logging.WARNING):
        vectors = described(model, [photos[0], blank, blank])
    assert vectors.any(axis=1).tolist() == [True, False, False]
    assert "2 of 3 photos have no SIFT keypoints" in caplog.text


def test_training_on_photos_without_keypoints_is_refused(blank):
    with pytest.raises(
        InputError, match=r"vlad\.words: 8 words cannot be learned from 0 training descriptors"
    ):
        vlad.train([blank], **OPTIONS)
    with pytest.raises(InputError, match="from 0 training descriptors"):
        vlad.train([], **OPTIONS)


def test_a_photo_that_does_not_decode_is_named(photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        vlad.train([*photos, tmp_path / "broken.jpg"], **OPTIONS)


@pytest.mark.parametrize("pca_dimensions", [0, 3])
def test_restored_from_tensors_and_json(photos, pca_dimensions):
    model = vlad.train(photos, **OPTIONS | {"pca_dimensions": pca_dimensions})
    restored = vlad.Vlad.restore(model.tensors(), json.loads(json.dumps(model.settings())))
    assert restored.dimensions == model.dimensions
    assert described(restored, photos).tobytes() == described(model, photos).tobytes()


def test_torch_is_not_imported():
    check = "import sys, landmarks.describing.vlad; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
