"""What the benchmarks share: paired runs, their ratios, and the machine that they were made on."""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from landmarks.cores import CORES
from landmarks.errors import InputError

PAUSE = 0.3
"""Seconds before each way: threads of OpenMP go on spinning after their work, and would slow the next one."""


def photos_below(folder: Path) -> list[Path]:
    """The files below `folder`, sorted. Raises `InputError` where there are none."""
    photos = sorted(path for path in folder.rglob("*") if path.is_file())
    if not photos:
        raise InputError(f"{folder}: no photos below it; name a folder that has one folder per landmark")
    return photos


def paired(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each way took in each of `rounds`: the ways alternate, so a slow spell hits them all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as fast: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def over_cores(
    title: str, work: Callable[[int], object], figure: Callable[[float], str], unit: str, rounds: int
) -> None:
    """Report `work` by one worker and by one per core; `figure` tells its seconds in `unit`."""
    seconds = paired({"one": lambda: work(1), "all": lambda: work(CORES)}, rounds)
    rows = [
        ("1", figure(min(seconds["one"])), "1"),
        (CORES, figure(min(seconds["all"])), f"{ratio(seconds['one'], seconds['all']):.2f}"),
    ]
    report(
        f"{title}; peak memory {peak_memory():.2f} GB",
        ("workers", f"{unit}, best round", f"ratio, median of {rounds} rounds"),
        rows,
        ["opencv-contrib-python-headless", "numpy"],
    )


def peak_memory() -> float:
    """The most memory that this process has held, in GB."""
    # Not getrusage, which counts what the parent held when it forked.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def report(
    title: str, header: Sequence[str], rows: Iterable[Sequence[object]], packages: Sequence[str]
) -> None:
    """Print a Markdown table below a description of the machine."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout
    print(f"\n{title}\n")
    print(f"{_processor()}, {CORES} cores, {platform.system()}, ", end="")
    print(f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages), sep=", ")
    print(f"{time.strftime('%Y-%m-%d')}, commit {commit.strip()}, `{' '.join(['python', *sys.argv])}`\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row) + " |")


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    flags = Path("/proc/cpuinfo").read_text()
    extras = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags]
    return f"{names[0].partition(': ')[2]} ({', '.join(extras)})"
