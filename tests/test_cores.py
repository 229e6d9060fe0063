import os
import re
from pathlib import Path

import pytest

from landmarks import cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)


def machine(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


V2 = {"proc/self/cgroup": "0::/a/b"}
V1 = {"proc/self/cgroup": "9:name=systemd:/x\n4:cpu,cpuacct:/docker/f00\n3:cpuset:/x\n0::/x"}
TOP1 = "sys/fs/cgroup/cpu/cpu.cfs_"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "what is this?"}, 8),
        (V2, 8),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 8),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "300000 100000"}, 3),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "250000 100000"}, 3),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "1000 100000"}, 1),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "6400000 100000"}, 8),
        # The smallest on the way to the top, wherever it is.
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 1000", "sys/fs/cgroup/a/cpu.max": "2000 1000"}, 2),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "5000 1000", "sys/fs/cgroup/cpu.max": "4000 1000"}, 4),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "2000 1000", "sys/fs/cgroup/a/cpu.max": "4000 1000"}, 2),
        # Those beside it are not of this process, nor what lies above the cgroups.
        (V2 | {"sys/fs/cgroup/a/c/cpu.max": "1000 1000", "sys/fs/cpu.max": "1000 1000"}, 8),
        # A container that sees no other cgroups: its own is the top.
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        (V1, 8),
        (V1 | {f"{TOP1}quota_us": "-1", f"{TOP1}period_us": "100000"}, 8),
        (V1 | {f"{TOP1}quota_us": "350000", f"{TOP1}period_us": "100000"}, 4),
        (
            V1
            | {"sys/fs/cgroup/cpu/docker/f00/cpu.cfs_quota_us": "50000"}
            | {"sys/fs/cgroup/cpu/docker/f00/cpu.cfs_period_us": "25000"},
            2,
        ),
        # Of the CPU, not of another controller that is mounted by itself.
        (
            V1
            | {"sys/fs/cgroup/cpuset/cpu.cfs_quota_us": "1", "sys/fs/cgroup/cpuset/cpu.cfs_period_us": "1"},
            8,
        ),
    ],
)
def test_a_quota_of_the_container_or_of_one_around_it_is_heeded(tmp_path, files, expected):
    assert cores.count(machine(tmp_path, files)) == expected


def test_without_affinity_the_cores_of_the_machine_count(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.count(tmp_path) == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.count(tmp_path) == 1


@pytest.mark.parametrize(("wanted", "expected"), [("3", 3), ("40", 40), ("0", 1), ("", 8), ("default", 8)])
def test_who_says_how_many_is_obeyed(tmp_path, monkeypatch, wanted, expected):
    monkeypatch.setenv("PYTHON_CPU_COUNT", wanted)
    assert cores.count(tmp_path) == expected


def test_nobody_else_counts_cores():
    root = Path(__file__).parents[1]
    sources = [path for folder in ("landmarks", "stages") for path in (root / folder).rglob("*.py")]
    count = re.compile(
        r"\bcpu_count\b|sched_getaffinity|(Executor|Pool)\(\)"
    )  # one of no number counts them itself
    counting = [path.name for path in sources if count.search(path.read_text(encoding="utf-8"))]
    assert counting == ["cores.py"]
