"""Compiling inner loops by Numba, and keeping what was compiled where that can be kept."""

import functools
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`njit` without the GIL that keeps what it compiled: in NUMBA_CACHE_DIR, beside its file, or at home.

    If none of them can be written to, it compiles anew in each process.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        plain: Callable[..., None] = njit(nogil=True, **options)(function)
        try:
            cached = njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # "no locator available"
            return plain

        @functools.wraps(function)
        def call(*arguments: Any) -> None:
            try:
                cached(*arguments)
            except OSError:  # of the cache: its disk is full, say
                plain(*arguments)

        return call

    return decorate
