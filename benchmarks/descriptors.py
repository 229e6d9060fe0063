"""The mAP of the settings of a pretrained network's descriptors, over several splits of the photos.

python benchmarks/descriptors.py data/vietnam5/images [--splits 5]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import photos_below, report
from numpy.typing import NDArray

from landmarks.describing import trunks, whitening
from landmarks.describing.engines import Execution
from landmarks.errors import run
from landmarks.photos.catalog import numbered
from landmarks.searching import search

WAYS: dict[str, dict[str, object]] = {
    "avg, 224 pixels": {"image_size": 224},
    "avg": {},
    "max": {"pooling": "max"},
    "gem, p = 3": {"pooling": "gem"},
    "rmac": {"pooling": "rmac"},
    "crop": {"resize": "crop"},
    "pad": {"resize": "pad"},
    "keep": {"resize": "keep"},
    "keep, 384 pixels": {"resize": "keep", "image_size": 384},
    "scales 1 and 0.71": {"scales": (1.0, 2**-0.5)},
    "flip": {"flip": True},
    "sqrt": {"normalization": "sqrt"},
    "l2": {"normalization": "l2"},
}
WHITENED = "l2"
DIMENSIONS = (32, 64)
DISTANCES = ("L1", "L3")

Vectors = NDArray[np.float32]
Rows = NDArray[np.intp]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of photos, with one folder per landmark")
    parser.add_argument("--splits", type=int, default=5)
    options = parser.parse_args()
    photos = photos_below(options.images)
    classes = numbered([path.relative_to(options.images).parts[0] for path in photos])[1]
    splits = [thirds(classes, seed) for seed in range(options.splits)]

    described = {}
    for name, way in WAYS.items():
        settings = {"image_size": 320} | way
        trunk = trunks.pretrained("efficientnet_lite0", "imagenet", layer="avgpool", seed=0, **settings)
        trunk.execution = Execution("openvino", device="cpu")
        described[name] = np.concatenate(list(trunk.describe(photos, 16)))
    rows = []
    for name, vectors in described.items():
        values = [
            [mean_ap(vectors, classes, a, np.concatenate([b, c]), distance) for a, b, c in splits]
            for distance in DISTANCES
        ]
        rows.append((name, *map(spread, values)))
    report(
        f"efficientnet_lite0, 320 pixels unless said, {len(photos)} photos, a third as queries",
        ("setting", *DISTANCES),
        rows,
        ["openvino", "torch"],
    )

    vectors = described[WHITENED]
    ways: dict[str, Callable[[Rows], Vectors]] = {"none": lambda _: vectors}
    for n in DIMENSIONS:
        for power in (0.0, 0.5, 1.0):
            ways[f"pca, {n} dimensions, power {power:g}"] = lambda train, n=n, power=power: (
                whitening.learn_pca(vectors[train], n, power).apply(vectors)
            )
        ways[f"learned, {n} dimensions"] = lambda train, n=n: whitening.learn_discriminative(
            vectors[train], classes[train], n
        ).apply(vectors)
    rows = []
    for name, way in ways.items():
        values = [
            [mean_ap(way(train), classes, query, index, distance) for query, index, train in splits]
            for distance in DISTANCES
        ]
        rows.append((name, *map(spread, values)))
    report(
        "avg, 320 pixels, l2; a third as queries, a third as index, a third to learn the whitening from",
        ("whitening", *DISTANCES),
        rows,
        ["numpy"],
    )


def thirds(classes: Rows, seed: int) -> tuple[Rows, Rows, Rows]:
    """The rows of three thirds of each class."""
    random = np.random.default_rng(seed)
    parts: list[list[Rows]] = [[], [], []]
    for number in range(classes.max() + 1):
        rows = random.permutation(np.flatnonzero(classes == number))
        third = len(rows) // 3
        for part, chosen in zip(parts, np.split(rows, [third, 2 * third]), strict=True):
            part.append(chosen)
    first, second, last = (np.concatenate(part) for part in parts)
    return first, second, last


def mean_ap(vectors: Vectors, classes: Rows, query: Rows, index: Rows, distance: str) -> float:
    _, rows = search.top_k(vectors[query], vectors[index], distance, len(index))
    right = classes[index][rows] == classes[query][:, None]
    precision = right.cumsum(axis=1) / np.arange(1, len(index) + 1)
    return float(((precision * right).sum(axis=1) / right.sum(axis=1)).mean())


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


if __name__ == "__main__":
    run(main)
