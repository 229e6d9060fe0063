"""What the re-ranking methods cost on features/ and rankings/ as `dvc repro` left them.

python benchmarks/rerank.py [METHOD...] [--csv seconds.csv]
"""

import argparse
import statistics
import time
from pathlib import Path

from common import report

from landmarks import params, tables
from landmarks.chain import METHODS
from landmarks.errors import run
from landmarks.reranking.reranker import Reranker
from landmarks.searching import features, rankings

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS, help="or several, joined by +")
    parser.add_argument("--csv", type=Path, help="also write the seconds there, for compare.py")
    arguments = parser.parse_args()
    options = params.load().rerank_options
    rows, seconds = [], []
    with (
        rankings.opened(Path("rankings/retrieved.h5")) as retrieved,
        features.opened(Path("features/test.h5")) as queries,
        features.opened(Path("features/index.h5")) as index,
    ):
        distance = retrieved.attributes["distance"]
        photos = [photo.source for photo in retrieved.queries]

        def timed(method: str) -> tuple[float, float]:
            started = time.perf_counter()
            reranker = Reranker(method, index, distance, options)
            prepared = time.perf_counter()
            for part, block in retrieved.blocks(each=Reranker.bytes_a_result):
                reranker.rerank(photos[part], queries.features[part], block)
            return prepared - started, time.perf_counter() - prepared

        for method in arguments.methods:
            prepared, ranked = (
                statistics.median(part) for part in zip(*map(timed, [method] * ROUNDS), strict=True)
            )
            rows.append((f"`{method}`", f"{prepared:.3f}", f"{1000 * ranked / len(photos):.2f}"))
            seconds.append((method, f"{prepared + ranked:.3f}"))
        title = (
            f"{len(photos)} queries, {len(index.photos)} index photos of {index.features.shape[1]} numbers"
        )
    report(f"{title}, {distance}", ("method", "once, s", "a query, ms"), rows, ["numpy", "scipy"])
    if arguments.csv:
        tables.write(arguments.csv, ("rerank", "seconds"), seconds)


if __name__ == "__main__":
    run(main)
