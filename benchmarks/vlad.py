"""SIFT and VLAD over the cores: photos a second with one worker and with one a core.

python benchmarks/vlad.py data/vietnam5/images
"""

import os
import sys
from pathlib import Path

from common import paired, peak_memory, ratio, report

from landmarks import vlad

ROUNDS = 5


def main() -> None:
    folder = Path(sys.argv[1])
    photos = sorted(path for path in folder.rglob("*") if path.is_file())
    cores = len(os.sched_getaffinity(0))
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
    seconds = paired(
        {
            "one": lambda: list(model.describe(photos, workers=1)),
            "all": lambda: list(model.describe(photos, workers=cores)),
        },
        ROUNDS,
    )
    rows = [
        ("1", f"{len(photos) / min(seconds['one']):.1f}", "1"),
        (cores, f"{len(photos) / min(seconds['all']):.1f}", f"{ratio(seconds['one'], seconds['all']):.2f}"),
    ]
    report(
        f"SIFT and VLAD of {len(photos)} photos; peak memory {peak_memory():.2f} GB",
        ("workers", "photos a second, best round", f"ratio, median of {ROUNDS} rounds"),
        rows,
        ["opencv-contrib-python-headless", "numpy"],
    )


if __name__ == "__main__":
    main()
