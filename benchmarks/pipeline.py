"""What reruns cost beside DVC itself: the pipeline, and the same graph with commands that do nothing.

python benchmarks/pipeline.py, in a repository where `dvc repro` has run and Git is clean
"""

import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import yaml
from common import ratio, report

from landmarks.errors import InputError, run

ROUNDS = 5
CACHE = Path(".dvc/cache/files")
CHANGES = {
    "nothing": ["distance=L1", "distance=L1"],
    "rerank": ["rerank=two", "rerank=one"],
    "distance": ["distance=L2", "distance=L1"],
}


def main() -> None:
    root = Path.cwd()
    if not (root / CACHE).is_dir():
        raise InputError(f"{CACHE}: no such folder; run `make repro` first, and commit what it changed")
    with tempfile.TemporaryDirectory() as folder:
        real, empty = copy(root, Path(folder, "real")), copy(root, Path(folder, "empty"))
        do_nothing(empty / "dvc.yaml")
        do(empty, "dvc", "repro", "--force")
        rows = []
        for name, (there, back) in CHANGES.items():
            seconds: dict[str, list[float]] = {"real": [], "empty": []}
            for _ in range(ROUNDS):
                for setting in (there, back):
                    for kind, project in (("real", real), ("empty", empty)):
                        change(project, setting)
                        # Without the run cache, which would restore what an earlier round has made.
                        shutil.rmtree(project / ".dvc/cache/runs", ignore_errors=True)
                        start = time.perf_counter()
                        do(project, "dvc", "repro")
                        seconds[kind].append(time.perf_counter() - start)
            more = statistics.median(a - b for a, b in zip(seconds["real"], seconds["empty"], strict=True))
            medians = [f"{statistics.median(seconds[kind]):.2f}" for kind in ("real", "empty")]
            rows.append((name, *medians, f"{more:.2f}", f"{ratio(seconds['real'], seconds['empty']):.2f}"))
    report(
        "dvc repro after a change",
        ("changed", "s", "s with empty stages", "difference, median", "ratio, median"),
        rows,
        ["dvc", "numpy", "h5py", "numba"],
    )


def copy(root: Path, folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(root), str(folder)], check=True)
    shutil.copytree(root / ".dvc/cache", folder / ".dvc/cache", copy_function=hardlink)
    do(folder, "dvc", "checkout")
    return folder


def do_nothing(pipeline: Path) -> None:
    """Let each stage write the time to its outputs instead, so that the next ones see a change."""
    graph = yaml.safe_load(pipeline.read_text())
    for stage in graph["stages"].values():
        outs = [
            *stage.get("outs", []),
            *stage.get("plots", []),
            *map(next, map(iter, stage.get("metrics", []))),
        ]
        files = [out if Path(out).suffix else f"{out}/file" for out in outs]
        stage["cmd"] = "; ".join(["true", *(f"mkdir -p $(dirname {f}); date +%s%N > {f}" for f in files)])
    pipeline.write_text(yaml.safe_dump(graph, sort_keys=False))


def hardlink(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def change(project: Path, setting: str) -> None:
    name, value = setting.split("=")
    path = project / "params.yaml"
    path.write_text(re.sub(rf"^{name}: \w+", f"{name}: {value}", path.read_text(), flags=re.MULTILINE))


def do(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise InputError(
            f"`{' '.join(command)}` failed in a clone of this repository; run `make repro` first, and commit "
            f"what it changed\n{done.stderr.strip()}"
        )


if __name__ == "__main__":
    run(main)
