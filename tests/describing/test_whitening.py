import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA

from landmarks.describing import describers, whitening
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo

RNG = np.random.default_rng(0)
VECTORS = (RNG.normal(size=(60, 8)) @ RNG.normal(size=(8, 8)) + 5).astype(np.float32)
CLASSES = np.arange(60) % 4
GROUPED = (VECTORS + 3 * RNG.normal(size=(4, 8))[CLASSES]).astype(np.float32)


def projected(learned, vectors=VECTORS):
    return (vectors - learned.mean) @ learned.projection.T


@pytest.mark.parametrize("dimensions", [8, 3])
def test_pca_gives_the_training_data_unit_covariance(dimensions):
    learned = whitening.learn_pca(VECTORS, dimensions)
    found = projected(learned)
    assert_allclose(np.cov(found.T), np.eye(dimensions), atol=1e-4)
    expected = PCA(dimensions, whiten=True).fit_transform(VECTORS.astype(float))
    assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
    assert_allclose(np.linalg.norm(learned.apply(VECTORS), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_a_lower_power_leaves_the_variances_to_the_rest_of_it(power):
    variances = np.linalg.eigvalsh(np.cov(VECTORS.T.astype(float)))[::-1]
    found = projected(whitening.learn_pca(VECTORS, 8, power))
    assert_allclose(np.cov(found.T), np.diag(variances ** (1 - power)), atol=1e-3 * variances[0])


def by_pairs(vectors, classes):
    """C_S and C_D pair by pair."""
    sums = {True: [], False: []}
    for i, j in itertools.combinations(range(len(vectors)), 2):
        difference = vectors[i].astype(float) - vectors[j]
        sums[bool(classes[i] == classes[j])].append(np.outer(difference, difference))
    return np.mean(sums[True], axis=0), np.mean(sums[False], axis=0)


@pytest.mark.parametrize("classes", [CLASSES, RNG.permutation(np.repeat([0, 1, 2, 3], [30, 15, 10, 5]))])
def test_learned_whitening_is_that_of_the_paper_pair_by_pair(classes):
    same, other = by_pairs(GROUPED, classes)
    whitener = fractional_matrix_power(same, -0.5)
    values, rotation = np.linalg.eig(whitener @ other @ whitener)
    expected = (whitener @ rotation[:, np.argsort(-values.real)].real).T[:3]
    learned = whitening.learn_discriminative(GROUPED, classes, 3)  # four classes have no fourth direction
    signs = np.sign((learned.projection * expected).sum(1, keepdims=True))
    assert_allclose(learned.projection * signs, expected, rtol=1e-3, atol=1e-4)
    assert_allclose(learned.mean, GROUPED.mean(0), rtol=1e-5)
    after, _ = by_pairs(projected(learned, GROUPED), classes)
    assert_allclose(after, np.eye(3), atol=1e-3)


def test_few_photos_are_reduced_by_pca_before_their_pairs_are_compared():
    wide = np.concatenate([GROUPED, GROUPED @ RNG.normal(size=(8, 100))], axis=1).astype(np.float32)
    learned = whitening.learn_discriminative(wide, CLASSES, 6)
    axes = PCA(6).fit(wide.astype(float)).components_
    reduced = whitening.learn_discriminative((wide @ axes.T).astype(np.float32), CLASSES, 6)
    found, expected = (projected(one, data) for one, data in ((learned, wide), (reduced, wide @ axes.T)))
    assert_allclose(np.abs(found[:, :3]), np.abs(expected[:, :3]), atol=1e-3)


def test_learned_whitening_finds_what_tells_classes_apart_under_louder_noise():
    classes = np.arange(400) % 2
    signal = np.where(classes, 1.0, -1.0) + 0.1 * RNG.normal(size=400)
    noise = 50 * RNG.normal(size=(400, 5))
    vectors = np.column_stack([noise, signal]).astype(np.float32)
    first = whitening.learn_discriminative(vectors, classes, 1).apply(vectors)[:, 0]
    assert ((first > 0) == classes).mean() in (0, 1)


def test_zero_stays_zero():
    learned = whitening.learn_pca(VECTORS, 3)
    found = learned.apply(np.stack([VECTORS[0], np.zeros(8, np.float32)]))
    assert found[0].any()
    assert not found[1].any()


@pytest.mark.parametrize(
    ("learn", "permitted"),
    [
        (lambda few: whitening.learn_pca(few, 8, parameter="extract.dimensions"), 7),
        (lambda few: whitening.learn_discriminative(few, CLASSES[:8], 5, "extract.dimensions"), 4),
    ],
    ids=["pca", "learned"],
)
def test_more_dimensions_than_the_photos_span_are_refused(learn, permitted):
    with pytest.raises(InputError, match=rf"extract\.dimensions: . is more than the {permitted} that 8 "):
        learn(VECTORS[:8])


class Table:
    """A model that looks descriptors up by the name of the photo."""

    kind = "resnet"
    dimensions = 8

    def describe(self, photos, batch_size):
        for photo in photos:
            yield GROUPED[[int(photo.name)]]


PHOTOS = [Photo(str(row), "abcd"[CLASSES[row]]) for row in range(60)]


def test_a_model_is_whitened_by_the_photos_it_is_given():
    assert isinstance(describers.whitened(Table(), PHOTOS, "none", 4, 1.0), Table)
    by_pca = describers.whitened(Table(), PHOTOS, "pca", 4, 0.5)
    by_class = describers.whitened(Table(), PHOTOS, "learned", 4, 1.0)
    for model, expected in (
        (by_pca, whitening.learn_pca(GROUPED, 4, 0.5)),
        (by_class, whitening.learn_discriminative(GROUPED, CLASSES, 4)),
    ):
        assert model.dimensions == 4
        paths = [describers.Path(photo.image_path) for photo in PHOTOS]
        assert_allclose(np.concatenate(list(model.describe(paths, 7))), expected.apply(GROUPED), atol=1e-5)
    with pytest.raises(InputError, match=r"extract\.dimensions: 4 are too many to whiten with 3 train"):
        describers.whitened(Table(), PHOTOS[:3], "pca", 4, 1.0)


@pytest.mark.parametrize("how", ["pca", "learned"])
@pytest.mark.parametrize("blank", [[0], [59], [3, 4, 5], list(range(0, 60, 4))])
def test_photos_of_which_nothing_is_described_teach_nothing(monkeypatch, how, blank):
    """As VLAD finds no keypoints in a blank photo."""
    vectors = GROUPED.copy()
    vectors[blank] = 0
    monkeypatch.setitem(globals(), "GROUPED", vectors)
    kept = [photo for row, photo in enumerate(PHOTOS) if row not in blank]
    with_blank, without = (describers.whitened(Table(), photos, how, 3, 1.0) for photos in (PHOTOS, kept))
    assert_allclose(with_blank.whitening.mean, without.whitening.mean, atol=1e-6)
    assert_allclose(with_blank.whitening.projection, without.whitening.projection, atol=1e-6)
