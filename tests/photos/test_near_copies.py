import io

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.sparse.csgraph import connected_components

from landmarks.photos import images
from landmarks.photos._proving import prove
from landmarks.photos.catalog import Near, Photo
from landmarks.photos.near_copies import BITS, clusters, find, hashed


def drawn(seed, size=(320, 240)):
    """Blots of light and dark, others for each seed."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    fine = random.integers(-12, 13, (size[1], size[0], 3))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) + fine
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image, kind="JPEG", **save):
    file = io.BytesIO()
    image.save(file, kind, **save)
    return file.getvalue()


def hashes_of(*contents):
    return np.array([hashed(prove(content, 10**7)[1]) for content in contents], np.uint64)


def flipped(value, bits):
    return value ^ sum(1 << bit for bit in bits)


def test_the_hashes_are_those_of_their_definitions():
    for seed in range(20):
        grey = cv2.resize(np.asarray(drawn(seed).convert("L")), (32, 32), interpolation=cv2.INTER_AREA)
        frequencies, means = hashed(grey)
        low = dctn(grey.astype(float), norm="ortho")[:8, :8]
        low[0, 0] = 0
        parts = grey.reshape(8, 4, 8, 4)[:, 1:3, :, 1:3].mean(axis=(1, 3))  # what bilinear interpolation sees
        for found, values in ((frequencies, low), (means, parts)):
            bits = np.unpackbits(np.frombuffer(found.to_bytes(8), np.uint8), bitorder="little")
            above = values.ravel() - values.mean()
            clear = abs(above) > 1  # OpenCV rounds to whole greys
            assert clear.sum() > 50
            np.testing.assert_array_equal(bits[clear], above[clear] > 0)


def random_hashes(count, chains, seed):
    """`count` hashes, `chains` of which are others with some bits flipped, mostly few enough to be near."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, (count, 2), dtype=np.uint64)
    for target in random.integers(0, count, chains):
        source = random.integers(count)
        for column in (0, 1):
            bits = random.choice(64, random.integers(0, BITS + 3), replace=False)
            hashes[target, column] = flipped(int(hashes[source, column]), bits.tolist())
    return hashes


@pytest.mark.parametrize(
    ("count", "chains", "seed"), [(0, 0, 0), (1, 0, 0), (2, 1, 0), (50, 40, 1), (1500, 900, 2)]
)
def test_clusters_are_the_connected_components_of_all_near_pairs(count, chains, seed):
    hashes = random_hashes(count, chains, seed)
    hashes = np.concatenate([hashes, hashes[: count // 10], hashes[: count // 20]])
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None])
    pairs, labels = connected_components((bits <= BITS).all(axis=2))
    expected = np.full(pairs, len(hashes))
    np.minimum.at(expected, labels, np.arange(len(hashes)))
    np.testing.assert_array_equal(clusters(hashes), expected[labels])


def test_both_hashes_have_to_be_near():
    near, far = range(BITS), range(BITS + 1)
    for of_frequencies, of_means, expected in (
        (near, near, [0, 0]),
        (far, near, [0, 1]),
        (near, far, [0, 1]),
        ([63], [0, 63], [0, 0]),
    ):
        hashes = np.array([[5, 6], [flipped(5, of_frequencies), flipped(6, of_means)]], np.uint64)
        assert clusters(hashes).tolist() == expected


def test_many_blank_photos_are_one_cluster():
    assert (clusters(np.zeros((200_000, 2), np.uint64)) == 0).all()


def test_groups_are_made_within_a_landmark_and_the_nearest_of_another_is_named():
    base = int(np.random.default_rng(0).integers(2**63))
    steps = [0, 6, 12, 18, 3]  # bits flipped from the first on
    names = ["a", "a", "b", "a", "b"]
    hashes = np.array([[flipped(base, range(step)), 0] for step in steps] + [[~base % 2**64, 0]], np.uint64)
    photos = [Photo(f"{place}.jpg", name) for place, name in enumerate([*names, "b"])]
    assert find(photos, hashes, clusters(hashes)) == [
        Near("0.jpg", "a", "0.jpg", "4.jpg"),
        Near("1.jpg", "a", "0.jpg", "4.jpg"),  # 3 bits to 4.jpg, 6 to 2.jpg
        Near("2.jpg", "b", "", "1.jpg"),  # 6 bits to 1.jpg and to 3.jpg, 9 to 4.jpg
        Near("3.jpg", "a", "", "2.jpg"),
        Near("4.jpg", "b", "", "0.jpg"),  # 3 bits to 0.jpg and to 1.jpg
    ]


@pytest.mark.parametrize(
    ("count", "chains", "landmarks", "seed"), [(0, 0, 1, 0), (90, 80, 1, 1), (400, 390, 5, 2)]
)
def test_what_is_found_is_what_all_pairs_say_with_or_without_the_copies_that_are_left_out(
    count, chains, landmarks, seed
):
    hashes = random_hashes(count, chains, seed)
    names = np.random.default_rng(seed).integers(landmarks, size=count)
    left = np.arange(count) % 7 > 0
    labels, hashes, names = clusters(hashes)[left], hashes[left], names[left]
    photos = [Photo(f"{place:04}.jpg", str(name)) for place, name in enumerate(names)]

    bits = np.bitwise_count(hashes[:, None] ^ hashes[None]).astype(int)
    near, same = (bits <= BITS).all(axis=2), names[:, None] == names[None]
    groups = connected_components(near & same)[1] if count else []
    distance = np.where(near & ~same, bits.sum(axis=2), 99)
    expected = []
    for row, photo in enumerate(photos):
        first = np.flatnonzero(groups == groups[row])
        nearest = distance[row].argmin()
        near_copy = Near(
            *photo[:2],
            photos[first[0]].image_path if len(first) > 1 else "",
            photos[nearest].image_path if distance[row, nearest] < 99 else "",
        )
        expected += [near_copy] if any(near_copy[2:]) else []
    assert find(photos, hashes, labels) == expected
    assert bool(count) == any(row.group for row in expected)
    assert (landmarks > 1) == any(row.elsewhere for row in expected)


def test_each_of_thousands_of_frames_has_its_nearest_in_another_landmark():
    photos = [Photo(f"{place:05}.jpg", "ab"[place % 2]) for place in range(10_000)]
    hashes = np.zeros((len(photos), 2), np.uint64)
    hashes[:, 0] = np.arange(len(photos)) // 40  # of 14 bits, so that each has near-copies all over
    found = find(photos, hashes, clusters(hashes))
    assert {row.group for row in found} == {"00000.jpg", "00001.jpg"}
    assert all(
        row.elsewhere == photos[place - place % 40 + (place + 1) % 2].image_path
        for place, row in enumerate(found)
    )


def resized(image, factor):
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def turned(image):
    """The content of `image` stored on its side, with the EXIF orientation that sets it upright."""
    tags = Image.Exif()
    tags[0x112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), exif=tags)


COPIES = {
    "saved again": lambda image: encoded(image, quality=60),
    "poorly": lambda image: encoded(image, quality=15),
    "with a comment": lambda image: encoded(image, quality=90, comment=b"holiday"),
    "progressive": lambda image: encoded(image, progressive=True),
    "as PNG": lambda image: encoded(image, "PNG"),
    "as WebP": lambda image: encoded(image, "WEBP", quality=50),
    "half the size": lambda image: encoded(resized(image, 0.5)),
    "a thumbnail": lambda image: encoded(resized(image, 0.2)),
    "larger": lambda image: encoded(resized(image, 1.7)),
    "without colour": lambda image: encoded(image.convert("L")),
    "darker": lambda image: encoded(image.point(lambda value: value * 0.8)),
    "on its side": turned,
    "sharpened": lambda image: encoded(Image.blend(resized(resized(image, 0.3), 1 / 0.3), image, 1.4)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_near_whatever_was_done_to_it(copy):
    for seed in range(4):
        assert clusters(hashes_of(encoded(drawn(seed), quality=90), copy(drawn(seed)))).tolist() == [0, 0]


def test_other_photos_are_not_near():
    assert len(set(clusters(hashes_of(*(encoded(drawn(seed, (96, 72))) for seed in range(120)))))) == 120
    # Mirrored and upside down are other photos: what is left of a landmark matters.
    image = drawn(0)
    others = [image.transpose(turn) for turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180)]
    assert clusters(hashes_of(*map(encoded, [image, *others]))).tolist() == [0, 1, 2]


def test_the_hashes_are_of_the_upright_photo():
    image = drawn(3)
    upright = images.read(turned(image))
    assert upright.size == image.size
    assert clusters(hashes_of(turned(image), encoded(upright))).tolist() == [0, 0]
