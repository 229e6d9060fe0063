"""The kernels with Numba's checks of bounds, in a cache of their own, for one that is cached has none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUT_OF_BOUNDS = """
import numpy as np
from landmarks.searching import _kernels

wide, narrow = np.zeros((2, 1280), np.float32), np.zeros((9, 100), np.float32)
try:
    _kernels.distances(wide, narrow, "L1", np.zeros((2, 9), np.float32))
except IndexError as error:
    print(error)
"""


@pytest.mark.slow
def test_no_kernel_reads_or_writes_out_of_bounds(tmp_path):
    env = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    told = subprocess.check_output([sys.executable, "-c", OUT_OF_BOUNDS], cwd=ROOT, env=env, text=True)
    assert "out of bounds" in told
    tests = ["tests/searching/test_search.py", "tests/photos/test_near_copies.py"]
    command = [sys.executable, "-m", "pytest", "-n", "0", *tests]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert list(tmp_path.rglob("*.nbi"))
