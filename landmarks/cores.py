"""The cores that this process may use, which may be fewer than the machine has."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path


def count(root: Path = Path("/")) -> int:
    """How many cores this process may keep busy, 1 or more.

    `PYTHON_CPU_COUNT` where it is set, as Python 3.13 has it; else those of the process, but no more than the
    quota of its container, which is rounded up. `root`: of the file system, where Linux tells of quotas.

    joblib's count, which looks at the topmost quota alone, takes longer to import than NumPy.
    """
    if (wanted := os.environ.get("PYTHON_CPU_COUNT", "")).isdecimal():
        return max(1, int(wanted))
    # macOS and Windows have no affinity, or none that Python tells.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The cores' worth of time that this process's cgroup and those above it allow, where they have a limit.

    Control Group v2 and CFS Bandwidth Control in the documentation of Linux.
    """
    cgroups = _read(root / "proc/self/cgroup")
    for controllers, path in re.findall(r"^\d+:(.*?):/*(.*)$", cgroups, re.MULTILINE):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        group = top / path
        # In a container the path may be that of the host, of which only the top is there.
        for folder in (group, *group.parents):
            limits = " ".join(_read(folder / name) for name in names).split()
            if len(limits) == 2 and all(limit.isdecimal() for limit in limits):  # no limit: max, or -1
                yield int(limits[0]) / int(limits[1])
            if folder == top:
                break


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


CORES = count()
