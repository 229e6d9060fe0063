"""Geometric verification over the cores: 50 queries with 100 candidates each, with one thread and with all.

python benchmarks/geometric.py data/vietnam5/images
"""

import argparse
from pathlib import Path

import numpy as np
from common import over_cores, photos_below

from landmarks import params
from landmarks.errors import run
from landmarks.reranking import geometric

ROUNDS = 3
QUERIES, CANDIDATES = 50, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of photos")
    photos = photos_below(parser.parse_args().images)
    options = params.load().rerank_options.geometric
    random = np.random.default_rng(0)
    drawn = [random.choice(len(photos), CANDIDATES + 1, replace=False) for _ in range(QUERIES)]
    tasks = [(photos[first], [photos[place] for place in others]) for first, *others in drawn]

    def verify(workers: int) -> None:
        geometric.forget()
        with geometric.one_thread_each():
            for _ in geometric.verified(tasks, options, workers):
                pass

    over_cores(
        f"{QUERIES} queries verified against {CANDIDATES} of {len(photos)} photos each, features included; "
        f"{options.features}, {options.model}",
        verify,
        lambda seconds: f"{seconds:.1f}",
        "seconds",
        ROUNDS,
    )


if __name__ == "__main__":
    run(main)
