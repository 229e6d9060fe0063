"""SIFT and VLAD over the cores: photos per second with one worker and with one per core.

python benchmarks/vlad.py data/vietnam5/images
"""

import argparse
from pathlib import Path

from common import over_cores, photos_below

from landmarks.describing import vlad
from landmarks.errors import run

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of photos")
    photos = photos_below(parser.parse_args().images)
    model = vlad.train(
        photos[::4],
        words=64,
        keypoints=1000,
        max_side=1024,
        root_sift=True,
        normalization="signed_sqrt",
        pca_dimensions=0,
        training_descriptors=100_000,
        kmeans_iterations=30,
        seed=0,
    )
    over_cores(
        f"SIFT and VLAD of {len(photos)} photos",
        lambda workers: list(model.describe(photos, workers=workers)),
        lambda seconds: f"{len(photos) / seconds:.1f}",
        "photos per second",
        ROUNDS,
    )


if __name__ == "__main__":
    run(main)
