"""Tables in CSV files, read and written by pandas: every value is text, and every row is whole.

Beside the table of a stage stands its checksum, as `xxhsum -H2` writes it: `catalog.csv.xxh`. After an edit
by hand, `python -m landmarks.tables data/catalog.csv` writes it anew.
"""

import codecs
import csv
import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xxhash import xxh3_128

from landmarks.errors import InputError, run
from landmarks.files import damaged, replacing, unreadable

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def write(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, with_checksum: bool = True
) -> None:
    """Write a CSV file in UTF-8: `header`, then `rows`, values as `str` has them."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(header), dtype=object)
    content = table.to_csv(index=False, lineterminator="\n", na_rep="nan").encode()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        # Of an older table, which an interruption would leave beside this one.
        checksum_of(path).unlink(missing_ok=True)
    if with_checksum:
        write_checksum(path, content)


def write_checksum(path: Path, content: bytes) -> None:
    """Write the checksum of the table at `path`, which has this `content`."""
    with replacing(checksum_of(path)) as temporary:
        temporary.write_bytes(_checksum(path, content))


def checksum_of(path: Path) -> Path:
    """Where the checksum of the table at `path` is."""
    return path.with_name(f"{path.name}.xxh")


def _checksum(path: Path, content: bytes) -> bytes:
    return f"{xxh3_128(content).hexdigest()}  {path.name}\n".encode()


def read(
    path: Path,
    *headers: Sequence[str],
    filled: int = 0,
    wrong: str = "{row} is not {header}",
    made_by: str = "dvc repro",
    with_checksum: bool = True,
) -> "pd.DataFrame":
    """Read a CSV file in UTF-8 whose header is one of `headers`, of two names or more.

    Every value is text: `001`, `NA` and nothing stay what they are. The index is the number of each row in
    the file, from 2. Raises `InputError` where the file is missing, with what it is `made_by`, where it is
    not as its checksum says, where it is not such a file, and where a row has more or fewer values, or none
    in the first `filled` columns, told as in `wrong`. Warns where there is no checksum.
    """
    import pandas as pd

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `{made_by}` makes it") from None
    if with_checksum:
        _check(path, content)
    try:
        table = pd.read_csv(
            path.absolute(),  # or it expands ~; `content` it would decode and encode again
            header=None,
            dtype=object,
            na_filter=False,
            skip_blank_lines=False,
            compression=None,
            engine="python" if b"\0" in content else "c",  # where a value ends at a NUL
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        raise _fault(path, headers, filled, wrong) from None
    header = tuple(table.iloc[0])
    # pandas fills a short row with "" or None, but the file then has fewer commas between values.
    within = sum("".join(filter(None, table[name])).count(",") for name in table) if b'"' in content else 0
    whole = content.count(b",") - within == len(table) * (len(header) - 1)
    table = table.iloc[1:].set_axis(header, axis="columns")
    table.index += 1
    if (
        not whole
        or header not in map(tuple, headers)
        or content.startswith(codecs.BOM_UTF8)  # which pandas drops
        or (table.iloc[:, :filled] == "").any(axis=None)
    ):
        raise _fault(path, headers, filled, wrong)
    return table


def _check(path: Path, content: bytes) -> None:
    checksum = checksum_of(path)
    try:
        line = checksum.read_bytes()
    except FileNotFoundError:
        log.warning("%s: there is no %s to check it by; is it whole?", path, checksum.name)
    except OSError as error:
        raise unreadable(checksum, error) from None
    else:
        if line != _checksum(path, content):
            edited = f"python -m landmarks.tables {shlex.quote(path.as_posix())}"
            told = f"not as {checksum.name} says; if you edited it, run: {edited}"
            raise damaged(path, told, checksum)


def _fault(path: Path, headers: Sequence[Sequence[str]], filled: int, wrong: str) -> InputError:
    """What is wrong with a file that is no such table. pandas cannot tell which row is short, so csv does."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        return InputError(f"{path}: not a CSV file in UTF-8 ({error})")
    if tuple(header) not in map(tuple, headers):
        allowed = " or ".join(repr(",".join(expected)) for expected in headers)
        return InputError(f"{path}: the header is {','.join(header)!r}, expected {allowed}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or not all(row[:filled]):
            told = wrong.format(row=row, count=len(row), header=", ".join(header), columns=len(header))
            return InputError(f"{path}, row {number}: {told}")
    return InputError(f"{path}: not a CSV file in UTF-8 (its quotes do not enclose whole values)")


def main() -> None:
    """Write the checksums of the tables that are named."""
    for path in map(Path, sys.argv[1:]):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from None
        write_checksum(path, content)


if __name__ == "__main__":
    run(main)
