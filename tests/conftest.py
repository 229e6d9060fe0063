from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Path]:
    """Write smooth colours with some noise, other ones for each seed; returns the path."""

    def make(path, seed=0, size=(64, 48), format="JPEG", mode="RGB", **save):  # noqa: A002
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=int)
        noisy = (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).convert(mode).save(path, format, **save)
        return path

    return make
