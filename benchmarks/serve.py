"""A query through the API of `landmarks serve` on a large index, the description of the photo apart.

python benchmarks/serve.py [--rows 100000]
"""

import argparse
import http.client
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from common import report
from PIL import Image

from landmarks import files, hdf5
from landmarks.describing import describers
from landmarks.describing.vlad import Vlad
from landmarks.photos.catalog import Photo
from landmarks.searching.photo_rows import write_photos

WORDS = 10  # of 128 numbers each: descriptors of 1280, as efficientnet_lite0 has them
CLASSES = 1000
QUERIES = 40
CLIENTS = 10
PACKAGES = ["numpy", "numba", "fastapi", "uvicorn"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="of the index, of 1280 numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), options.rows)
        with served(Path(folder)) as port:
            ask(port, "L1", "one", 3)
            rows = [
                measure(port, distance, method)
                for distance in ("L1", "L2", "L3")
                for method in ("one", "two")
            ]
            rows.append(measure(port, "L1", "one", CLIENTS))
    report(
        f"Photos uploaded to an index of {options.rows:,} rows of {WORDS * 128} numbers: milliseconds from "
        "sending to the whole answer, less those of describing",
        ("distance", "rerank", "clients", "median", "95 %", "queries per second", "describing, median"),
        rows,
        PACKAGES,
    )


def write_index(root: Path, rows: int) -> None:
    """What the pipeline leaves, with random numbers: VLAD as the model, since it loads at once."""
    random = np.random.default_rng(0)
    model = root / "models/model.safetensors"
    describers.write(
        model, Vlad(random.random((WORDS, 128), np.float32), None, 100, 512, True, "signed_sqrt")
    )
    shutil.copy("params.yaml", root)
    photos = [Photo(f"{row}.jpg", str(row % CLASSES)) for row in range(rows)]
    with hdf5.writing(root / "features/index.h5") as file:
        features = file.create_dataset("features", (rows, WORDS * 128), np.float32)
        for start in range(0, rows, 10_000):
            features[start : start + 10_000] = random.random(
                (min(10_000, rows - start), WORDS * 128), np.float32
            )
        write_photos(file, "", photos)
        file.attrs.update(kind="timm", model_sha256=files.sha256(model))


@contextmanager
def served(root: Path) -> Iterator[int]:
    """The port at which the index at `root` is served."""
    command = [sys.executable, "-m", "landmarks", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield int(json.loads(server.stdout.readline())["url"].rstrip("/").rpartition(":")[2])
        server.terminate()


def measure(port: int, distance: str, method: str, clients: int = 1) -> tuple[object, ...]:
    """A row of the table."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        shares = pool.map(lambda _: ask(port, distance, method, QUERIES // clients), range(clients))
        taken = np.concatenate(list(shares))
    rate = len(taken) / (time.perf_counter() - start)
    whole, described = taken.T
    median, high = np.percentile(whole - described, (50, 95))
    return (
        distance,
        method,
        clients,
        f"{median:.1f}",
        f"{high:.1f}",
        f"{rate:.1f}",
        f"{np.median(described):.1f}",
    )


def ask(port: int, distance: str, method: str, queries: int) -> list[tuple[float, float]]:
    """Milliseconds that each of some photos, no two the same, took, and those of them spent on describing."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    taken = []
    for _ in range(queries):
        photo = draw()
        start = time.perf_counter()
        connection.request("POST", f"/api/answer?distance={distance}&rerank={method}", photo)
        answer = json.load(connection.getresponse())
        taken.append((1000 * (time.perf_counter() - start), answer["milliseconds"]["describe"]))
    connection.close()
    return taken


def draw() -> bytes:
    """A JPEG of noise."""
    with io.BytesIO() as file:
        Image.effect_noise((320, 240), 80).save(file, "JPEG")
        return file.getvalue()


if __name__ == "__main__":
    main()
