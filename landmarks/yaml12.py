"""YAML files as DVC reads and records them: by YAML 1.2, with no key more than once."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from landmarks.errors import InputError
from landmarks.files import unreadable


def read(path: Path) -> dict[str, Any]:
    """The values in `path`. Raises `InputError` if it is gone or broken, naming lines."""
    from ruamel.yaml import YAML  # here, so that --help is there at once
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text(encoding="utf-8")
        values = YAML(typ="safe").load(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run this in the root of the repository") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except DuplicateKeyError as error:
        raise refused(path, _twice(YAML(typ="safe").compose(text)) or [_problem(error)]) from None
    # Its constructors let the others out, as of a date that is none.
    except (YAMLError, ValueError, TypeError, LookupError, AssertionError, RecursionError) as error:
        raise InputError(f"{path}: not YAML: {_problem(error)}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no parameters; `git checkout {path}` restores the committed ones")
    return values


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested mappings, with their names as in `split.test`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def refused(path: Path, reasons: Iterable[str]) -> InputError:
    """What to tell of `path`: one line for each of the `reasons`."""
    return InputError("\n".join(f"{path}: {reason}" for reason in reasons))


def _twice(node: Any) -> list[str]:
    """What to tell of the keys that a mapping, or one in it, gives more than once."""
    reasons: list[str] = []
    first: dict[tuple[str, str], Any] = {}
    for key, value in node.value if node.id == "mapping" else []:
        before = first.setdefault((key.tag, key.value), key) if key.id == "scalar" else key
        if before is not key:
            lines = " and ".join(str(one.start_mark.line + 1) for one in (before, key))
            reasons.append(f"{key.value} is given twice, in lines {lines}; delete one")
        if value.start_mark.index > key.start_mark.index:  # no alias of a mapping that comes before
            reasons += _twice(value)
    return reasons


def _problem(error: Exception) -> str:
    """What the parser says, in one line."""
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    return f"{text}, line {mark.line + 1}" if mark else text
