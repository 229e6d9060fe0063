"""Errors that the user can mend, and how a stage or a command reports them."""

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any, TextIO

# Of errors of the system: what the owner of a file can mend.
OF_FILES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EIO)

when_done: list[Callable[[], None]] = []
"""What a stage checks when it has written its outputs; may raise `InputError`."""


class InputError(Exception):
    """Bad input: the message names the file or parameter, what was seen and what is allowed."""


class DamagedError(InputError):
    """An output of a stage is not as the stage wrote it."""


class Terminated(KeyboardInterrupt):
    """What SIGTERM and SIGHUP raise; the argument is the number of the signal."""


def run(main: Callable[[], None]) -> None:
    """Run a stage: logs go to stderr, an `InputError` becomes one line and exit code 1.

    So does an error of the system that names a file which may not be read or written. Ctrl-C, SIGTERM and
    SIGHUP become one line, too, with the notes of the exception, and exit code 128 + their number.
    """
    when_done.clear()
    try:
        with streams(), terminable(terminate):
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            main()
            for check in when_done:
                check()
    except InputError as error:
        sys.exit(f"error: {shown(error)}")
    except OSError as error:
        sys.exit(f"error: {shown(of_file(error))}")
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        word = "terminated" if terminated else "interrupted"
        print("; ".join([word, *getattr(stop, "__notes__", [])]), file=sys.stderr)
        sys.exit(128 + (stop.args[0] if terminated else signal.SIGINT))


def shown(message: object) -> str:
    """`message` for a terminal, with escapes for what acts without being seen; names of files may hold it."""
    text = str(message)
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def of_file(error: OSError) -> str:
    """The line that tells of a file that may not be read or written; raises any other `error`."""
    if error.errno not in OF_FILES or not isinstance(error.filename, str):
        raise error
    return f"{error.filename}: {error.strerror}"


@contextmanager
def terminable(stop: Callable[[int, FrameType | None], None], *more: int) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGHUP, unless they are ignored, as by nohup, and on the signals `more`."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM), *more}:
            if number in more or signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_last = float("-inf")


def terminate(number: int, _: FrameType | None) -> None:
    """The handler of a signal that ends the process.

    Shells and torchrun send more than one: only Ctrl-C disturbs the end that another one has begun.
    """
    global _last
    if number == signal.SIGINT or monotonic() > _last + 5:
        _last = monotonic()
        raise stopped_by(number)


def stopped_by(number: int) -> KeyboardInterrupt:
    """The exception for a signal: KeyboardInterrupt itself for Ctrl-C."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


@contextmanager
def streams() -> Iterator[None]:
    """Make do with any stdout and stderr: closed, on a full disk, or a pipe that nobody reads any more.

    A closed one becomes /dev/null; otherwise `print` would write errors to stdout, and the next file to be
    opened would get its number. What stderr does not take is lost. Raises `InputError` if stdout does not
    take what is printed, and exits with 1 if it is a pipe whose reader has seen enough.
    """
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    _guard(sys.stderr, _lose)
    _guard(sys.stdout, _refuse)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        finally:
            _guard(sys.stdout, _lose)  # for Python flushes it once more when it ends


def _guard(stream: TextIO, failed: Callable[[OSError], None]) -> None:
    """Call `failed` where `stream` cannot be written to."""

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return method(*arguments)
            except OSError as error:
                failed(error)

        return call

    for name in ("write", "flush"):
        vars(stream).pop(name, None)  # an earlier guard
        setattr(stream, name, guarded(getattr(stream, name)))


def _lose(_: OSError) -> None:
    pass


def _refuse(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        sys.exit(1)
    raise InputError(f"stdout: cannot be written ({error.strerror})")
