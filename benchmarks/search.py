"""Exact search beside FAISS, torch.cdist and SciPy; in memory and from the disk.

python benchmarks/search.py [--rows 1000000]
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import paired, peak_memory, ratio, report
from numpy.typing import NDArray

from landmarks import hdf5
from landmarks.searching import features, search

Floats = NDArray[np.float32]

K = 10
ROUNDS = 5
PACKAGES = ["numpy", "numba", "faiss-cpu", "torch", "scipy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the store on disk, of 1280 numbers")
    parser.add_argument("--from-store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.from_store:
        from_store(options.from_store)
        return
    beside_peers()
    growth(options.rows)


def beside_peers() -> None:
    random = np.random.default_rng(0)
    index = random.random((50_000, 2048), np.float32)
    rows = []
    for count in (64, 1):
        queries = random.random((count, 2048), np.float32)
        for distance in ("L1", "L2", "L3"):
            ways = {"ours": lambda q=queries, d=distance: search.top_k(q, index, d, K)}
            ways |= peers(queries, index, distance)
            for way in ways.values():
                way()
            seconds = paired(ways, ROUNDS)
            for name, taken in seconds.items():
                rate = count * index.size / min(taken) / 1e9
                times = f"{ratio(taken, seconds['ours']):.2f}"
                rows.append((distance, count, name, f"{rate:.1f}", times))
    report(
        f"Top {K} of 50,000 rows of 2048 numbers",
        ("distance", "queries", "way", "G differences per second", "times as long as ours, median"),
        rows,
        PACKAGES,
    )


def peers(queries: Floats, index: Floats, distance: str) -> dict[str, Callable[[], object]]:
    import faiss  # here, since what they hold must not count as memory of a search from the store
    import torch
    from scipy.spatial.distance import cdist

    metric = {"L1": faiss.METRIC_L1, "L2": faiss.METRIC_L2, "L3": faiss.METRIC_INNER_PRODUCT}[distance]
    flat = faiss.IndexFlat(index.shape[1], metric)
    flat.add(index / np.linalg.norm(index, axis=1, keepdims=True) if distance == "L3" else index)
    ways: dict[str, Callable[[], object]] = {"FAISS flat": lambda: flat.search(queries, K)}
    if distance == "L1":
        tensors = torch.from_numpy(queries), torch.from_numpy(index)
        ways["torch.cdist"] = lambda: torch.cdist(*tensors, p=1).topk(K, largest=False)
        ways["SciPy, one thread"] = lambda: np.argpartition(cdist(queries, index, "cityblock"), K)
    return ways


def growth(most: int) -> None:
    random = np.random.default_rng(0)
    queries = random.random((100, 1280), np.float32)
    rows = []
    sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size < most] + [most]
    for size in sizes:
        index = random.random((size, 1280), np.float32)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = Path(folder, "index.h5")
            with hdf5.writing(path, features.KIND) as file:
                file.rows("features", index.shape, np.float32).append(index)
            seconds = paired(
                {
                    "memory": lambda x=index: search.top_k(queries, x, "L1", K),
                    "store": lambda x=path: search_store(queries, x),
                },
                3,
            )
            del index
            command = [sys.executable, __file__, "--from-store", str(path)]
            peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        best = {name: min(taken) for name, taken in seconds.items()}
        share = f"{ratio(seconds['memory'], seconds['store']):.2f}"
        rows.append((f"{size:,}", f"{best['memory']:.3f}", f"{best['store']:.3f}", share, peak))
    header = ("rows", "s in memory", "s from the store", "rate of the store, median", "its peak memory, GB")
    report("100 queries by L1 over rows of 1280 numbers, in the page cache", header, rows, PACKAGES)


def search_store(queries: Floats, path: Path) -> None:
    """Search a store that was just opened, whose blocks are then checked as they are read."""
    with hdf5.opened(path, features.KIND) as file:
        rows = hdf5.Rows(path, file, "features", (None, None), np.float32)
        search.top_k(queries, rows, "L1", K)


def from_store(path: Path) -> None:
    """Search in a process of its own, whose memory nothing else has filled."""
    search_store(np.random.default_rng(0).random((100, 1280), np.float32), path)
    print(f"{peak_memory():.2f}")


if __name__ == "__main__":
    main()
