"""What goes wrong in a way that the user can mend, and how a stage reports it."""

import logging
import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input: the message names the file or parameter, what was seen and what is allowed."""


def run(main: Callable[[], None]) -> None:
    """Run a stage: logs go to stderr, an `InputError` becomes one line and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
