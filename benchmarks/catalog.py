"""What proving photos whole and finding near-copies costs, beside decoding and digesting each photo alone.

python benchmarks/catalog.py [--photos 50000]
"""

import argparse
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from common import paired, peak_memory, ratio, report
from PIL import Image

from landmarks.photos import images, near_copies, scanning

MAX_PIXELS = 80_000_000
LANDMARKS = 50
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=50_000)
    photos = parser.parse_args().photos
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        root = Path("data/mine/images")
        for place in range(photos):
            path = root / f"landmark {place % LANDMARKS:02}" / f"{place:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(place).save(path, quality=85)
        seconds = paired(
            {"decoded": lambda: decoded_and_digested(root), "scan": lambda: scanned(root)}, ROUNDS
        )
        os.chdir(here)
    rows = [
        ("decoded by Pillow, digested", f"{photos / min(seconds['decoded']):.0f}", "1"),
        (
            "`create_csv`: proved whole, near-copies found",
            f"{photos / min(seconds['scan']):.0f}",
            f"{ratio(seconds['scan'], seconds['decoded']):.2f}",
        ),
    ]
    report(
        f"{photos} drawn JPEGs of 160 x 120 pixels; peak memory {peak_memory():.2f} GB",
        ("way", "photos per second, best round", f"times as long, median of {ROUNDS} rounds"),
        rows,
        ["pillow", "simplejpeg", "opencv-contrib-python-headless", "numba"],
    )


def draw(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


def decoded_and_digested(root: Path) -> None:
    def check(path: Path) -> bytes:
        images.decode(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    len(set(images.in_order(check, sorted(root.rglob("*.jpg")))))


def scanned(root: Path) -> None:
    scan = scanning.scan(root, MAX_PIXELS)
    near_copies.find(scan.photos, scan.hashes, scan.labels)


if __name__ == "__main__":
    main()
