"""Describing photos: each engine and precision beside one photo at a time in eager PyTorch.

python benchmarks/describe.py data/vietnam5/images [--photos 2000] [--backbone resnet50] [--weights random]
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from common import paired, photos_below, ratio, report
from numpy.typing import NDArray
from PIL import Image

from landmarks.describing import engines, trunks
from landmarks.errors import run
from landmarks.photos import images
from landmarks.photos.catalog import numbered
from landmarks.scoring import measures
from landmarks.searching import search

WAYS = [(engine, precision) for precision in ("float32", "bfloat16") for engine in ("torch", "openvino")]
ROUNDS = 3
PACKAGES = ["torch", "openvino", "pillow"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of photos, with one folder per landmark")
    parser.add_argument("--photos", type=int, default=2000, help="how many, repeated where there are fewer")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", default="random")
    options = parser.parse_args()

    distinct = photos_below(options.images)
    classes = numbered([path.relative_to(options.images).parts[0] for path in distinct])[1]
    trunk = trunks.pretrained(options.backbone, options.weights, 224, "avgpool", seed=0)
    original = np.concatenate([one_by_one(trunk, path) for path in distinct])
    many = list(islice(cycle(distinct), options.photos))
    tenth = many[: max(1, len(many) // 10)]

    ways = {"one at a time, eager": lambda: [one_by_one(trunk, path) for path in tenth]}
    ways["decoding alone"] = lambda: list(images.batches(many, images.Views(224), 16))
    for way in WAYS:
        ways[" ".join(way)] = lambda way=way: describe(trunk, many, *way)
    seconds = {name: np.array(taken) for name, taken in paired(ways, ROUNDS).items()}
    first = seconds.pop("one at a time, eager") / len(tenth)
    decoding = seconds.pop("decoding alone") / len(many)
    rows = [("one at a time, eager", f"{1 / first.min():.1f}", "1", "", "1", "1", loo_map(original, classes))]
    for name, way in zip(seconds, WAYS, strict=True):
        each = seconds[name] / len(many)
        bound = decoding + network_alone(trunk, tenth, *way)
        found = describe(trunk, distinct, *way)
        with showing(lambda _, photo: [whole(photo)]):
            of_whole = describe(trunk, distinct, *way)
        rows.append(
            (
                name,
                f"{1 / each.min():.1f}",
                f"{ratio(first.tolist(), each.tolist()):.2f}",
                f"{ratio(bound.tolist(), each.tolist()):.2f}",
                least_cosine(of_whole, original),
                least_cosine(found, original),
                loo_map(found, classes),
            )
        )
    rows.append(("decoding alone", f"{1 / decoding.min():.1f}", *[""] * 5))
    report(
        f"{options.backbone} ({options.weights} weights), 224 pixels, {len(many)} photos of {len(distinct)}",
        (
            "way",
            "photos per second",
            "times the first, median",
            "share of the bound",
            "least cosine, decoded whole",
            "least cosine",
            "mAP",
        ),
        rows,
        PACKAGES,
    )
    growth(options.backbone, options.weights, distinct)


def growth(backbone: str, weights: str, distinct: list[Path]) -> None:
    """Seconds from a network to the descriptors of more and more photos: converting it costs once."""
    measured = {}
    for count in (100, 1_000):
        trunk = trunks.pretrained(backbone, weights, 224, "avgpool", seed=0)
        many = list(islice(cycle(distinct), count))
        seconds = paired({"all": lambda t=trunk, m=many: describe(t, m, "openvino", "float32")}, 1)["all"]
        [measured[count]] = seconds
    each = (measured[1_000] - measured[100]) / 900
    rows = [(f"{count:,}", f"{seconds:.1f}", "measured") for count, seconds in measured.items()]
    rows.append(("10,000", f"{measured[1_000] + 9_000 * each:.0f}", "extrapolated"))
    report(f"{backbone} by openvino in float32", ("photos", "s", ""), rows, PACKAGES)


def describe(trunk: trunks.Trunk, photos: list[Path], engine: str, precision: str) -> NDArray[np.float32]:
    trunk.execution = engines.Execution(engine, precision, "cpu")
    return np.concatenate(list(trunk.describe(photos, 16)))


def one_by_one(trunk: trunks.Trunk, path: Path) -> NDArray[np.float32]:
    """The way of the project that this one follows."""
    pixels = torch.from_numpy(whole(path)[None])
    with torch.inference_mode():
        net = trunk.net.to(memory_format=torch.contiguous_format)
        photos = engines.normalize(pixels, trunk.options.mean, trunk.options.std).contiguous()
        pooled = net(photos).numpy()
    return np.asarray(pooled / np.abs(pooled).sum())


def whole(path: Path) -> NDArray[np.uint8]:
    """The photo decoded to the last pixel, then made small."""
    return np.array(images.to_rgb(images.decode(path)).resize((224, 224), Image.Resampling.BILINEAR))


@contextmanager
def showing(views: Callable[[images.Views, Path], list[NDArray[np.uint8]]]) -> Iterator[None]:
    """Let networks see these views of a photo."""
    usual, images.Views.of = images.Views.of, views
    try:
        yield
    finally:
        images.Views.of = usual


def network_alone(
    trunk: trunks.Trunk, photos: list[Path], engine: str, precision: str
) -> NDArray[np.float64]:
    """Seconds per photo, decoding left out: the same square photo again and again."""
    square = whole(photos[0])
    with showing(lambda *_: [square]):
        describe(trunk, photos[:16], engine, precision)
        ways = {"alone": lambda: describe(trunk, photos, engine, precision)}
        return np.array(paired(ways, ROUNDS)["alone"]) / len(photos)


def least_cosine(found: NDArray[np.float32], original: NDArray[np.float32]) -> str:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(original, axis=1)
    return f"{((found * original).sum(axis=1) / lengths).min():.5f}"


def loo_map(descriptors: NDArray[np.float32], classes: NDArray[np.intp]) -> str:
    """The mAP by L1 of each photo as a query among all others."""
    _, rows = search.top_k(descriptors, descriptors, "L1", len(descriptors))
    others = rows[rows != np.arange(len(rows))[:, None]].reshape(len(rows), -1)
    relevant = classes[others] == classes[:, None]
    return f"{np.nanmean(measures.average_precision(relevant, relevant.sum(axis=1))):.4f}"


if __name__ == "__main__":
    run(main)
