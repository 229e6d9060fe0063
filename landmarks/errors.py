"""What goes wrong in a way that the user can mend, and how a stage reports it."""

import errno
import logging
import sys
from collections.abc import Callable

# Of errors of the system: what the owner of a file can mend.
OF_FILES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EIO)

when_done: list[Callable[[], None]] = []
"""What a stage checks when it has written its outputs; may raise `InputError`."""


class InputError(Exception):
    """Bad input: the message names the file or parameter, what was seen and what is allowed."""


def run(main: Callable[[], None]) -> None:
    """Run a stage: logs go to stderr, an `InputError` becomes one line and exit code 1.

    So does an error of the system that names a file which may not be read or written.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    when_done.clear()
    try:
        main()
        for check in when_done:
            check()
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {of_file(error)}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def of_file(error: OSError) -> str:
    """The line that tells of a file that may not be read or written; raises any other `error`."""
    if error.errno not in OF_FILES or not isinstance(error.filename, str):
        raise error
    return f"{error.filename}: {error.strerror}"
