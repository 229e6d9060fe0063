"""Proving that a file is a whole photo."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from landmarks import images


class Proved(NamedTuple):
    """A whole photo, upright."""

    size: tuple[int, int]
    """Width and height in pixels."""
    grey: NDArray[np.uint8]
    """(32, 32): all of it, area-averaged."""


def prove(content: bytes, max_pixels: int) -> Proved:
    """Decode the photo `content`. Raises `ValueError` as `images.decode` does."""
    image = images.to_rgb(images.decode(content, max_pixels))
    grey = cv2.resize(np.asarray(image.convert("L")), (32, 32), interpolation=cv2.INTER_AREA)
    return Proved(image.size, grey.astype(np.uint8))
