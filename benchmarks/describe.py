"""Describing photos: each engine and precision beside one photo at a time in eager PyTorch.

python benchmarks/describe.py data/vietnam5/images [--photos 2000] [--backbone resnet50] [--weights random]
"""

import argparse
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from common import paired, ratio, report
from numpy.typing import NDArray
from PIL import Image

from landmarks import engines, images, scoring, search, trunks
from landmarks.catalog import numbered

WAYS = [(engine, precision) for precision in ("float32", "bfloat16") for engine in ("torch", "openvino")]
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of photos, a folder a landmark")
    parser.add_argument("--photos", type=int, default=2000, help="how many, repeated where there are fewer")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", default="random")
    options = parser.parse_args()

    distinct = sorted(path for path in options.images.rglob("*") if path.is_file())
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
    rows = [
        ("one at a time, eager", f"{1 / first.min():.1f}", "1", "", "1", f"{loo_map(original, classes):.4f}")
    ]
    for name, way in zip(seconds, WAYS, strict=True):
        each = seconds[name] / len(many)
        bound = decoding + network_alone(trunk, tenth, *way)
        found = describe(trunk, distinct, *way)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(original, axis=1)
        cosine = ((found * original).sum(axis=1) / lengths).min()
        rows.append(
            (
                name,
                f"{1 / each.min():.1f}",
                f"{ratio(first.tolist(), each.tolist()):.2f}",
                f"{ratio(bound.tolist(), each.tolist()):.2f}",
                f"{cosine:.5f}",
                f"{loo_map(found, classes):.4f}",
            )
        )
    rows.append(("decoding alone", f"{1 / decoding.min():.1f}", "", "", "", ""))
    report(
        f"{options.backbone} ({options.weights} weights), 224 pixels, {len(many)} photos of {len(distinct)}",
        ("way", "photos a second", "times the first, median", "share of the bound", "least cosine", "mAP"),
        rows,
        ["torch", "openvino", "pillow"],
    )


def describe(trunk: trunks.Trunk, photos: list[Path], engine: str, precision: str) -> NDArray[np.float32]:
    trunk.execution = engines.Execution(engine, precision, "cpu")
    return np.concatenate(list(trunk.describe(photos, 16)))


def one_by_one(trunk: trunks.Trunk, path: Path) -> NDArray[np.float32]:
    """The way of the project that this one follows."""
    photo = images.to_rgb(images.decode(path)).resize((224, 224), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(photo)[None].copy())
    with torch.inference_mode():
        net = trunk.net.to(memory_format=torch.contiguous_format)
        photos = engines.normalize(pixels, trunk.options.mean, trunk.options.std).contiguous()
        pooled = net(photos).numpy()
    return np.asarray(pooled / np.abs(pooled).sum())


def network_alone(
    trunk: trunks.Trunk, photos: list[Path], engine: str, precision: str
) -> NDArray[np.float64]:
    """Seconds a photo, decoding left out: the same square photo again and again."""
    square = images.Views(224).of(photos[0])
    read, images.Views.of = images.Views.of, lambda *_: square
    try:
        describe(trunk, photos[:16], engine, precision)
        seconds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            describe(trunk, photos, engine, precision)
            seconds.append((time.perf_counter() - start) / len(photos))
    finally:
        images.Views.of = read
    return np.array(seconds)


def loo_map(descriptors: NDArray[np.float32], classes: NDArray[np.intp]) -> float:
    """The mAP by L1 of each photo as a query among all others."""
    _, rows = search.top_k(descriptors, descriptors, "L1", len(descriptors))
    others = rows[rows != np.arange(len(rows))[:, None]].reshape(len(rows), -1)
    relevant = classes[others] == classes[:, None]
    return float(np.nanmean(scoring.average_precision(relevant, relevant.sum(axis=1))))


if __name__ == "__main__":
    main()
