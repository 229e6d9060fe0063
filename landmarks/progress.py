"""Progress bars, which are lines now and then where there is no terminal."""

from time import monotonic
from typing import TYPE_CHECKING, Any

from tqdm import tqdm as tqdm

SECONDS = 30
"""From one line to the next."""


class _Told(tqdm):  # type: ignore[type-arg]
    """The bar of tqdm on a terminal; elsewhere lines, the last one at the end unless `leave` is false.

    A bar is a line of carriage returns, which in a log file comes to megabytes.
    """

    _due: float | None = None

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """Draw the bar; or write a line, where the last one is long enough ago."""
        if self.fp.isatty():
            super().refresh(nolock, lock_args)
        elif self._due is None:
            self._due = monotonic() + SECONDS
        elif monotonic() >= self._due:
            self._due = monotonic() + SECONDS
            self._line()

    def close(self) -> None:
        """End the bar, with its last line."""
        if not self.disable and not self.fp.isatty():
            if self.leave:
                self._line(rate=None)  # that of all, not of late
            self.leave = False
        super().close()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar where there is a terminal."""
        if self.fp.isatty():
            super().display(msg, pos)

    def _line(self, **changes: Any) -> None:
        self.fp.write(self.format_meter(**{**self.format_dict, "ncols": 0, **changes}) + "\n")


if not TYPE_CHECKING:  # to which it stays generic
    tqdm = _Told
