"""The cores that this process may use, which may be fewer than the machine has."""

import os

CORES = len(os.sched_getaffinity(0))
