import csv
import errno
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks import tables
from landmarks.errors import InputError

ROOT = Path(__file__).parents[1]
HEADERS = [("one",), ("path", "class"), ("path", "class", "sha256")]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written_by_csv(rows, **options):
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows(rows)
    return file.getvalue().encode()


odd = st.sampled_from(
    [*",\"'\n\r \t\0#\\", "\r\n", "\ufeff", "\u2028", "\x85", "NA", "001", "1e5", "nan", "Huế"]
)
names = st.lists(odd | st.characters(codec="utf-8"), max_size=5).map("".join)


def rows_below(header):
    return st.tuples(st.just(header), st.lists(st.tuples(*[names] * len(header)), max_size=5))


whole = st.sampled_from(HEADERS).flatmap(rows_below)


@settings(deadline=None, max_examples=150)
@given(whole)
def test_the_bytes_are_those_that_csv_writes(table):
    header, rows = table
    tables.write(Path("table.csv"), header, rows)
    assert Path("table.csv").read_bytes() == written_by_csv([header, *rows], lineterminator="\n")


@settings(deadline=None, max_examples=150)
@given(whole, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_every_value_is_read_as_the_text_that_it_is(table, end, cut):
    header, rows = table
    content = written_by_csv([header, *rows], lineterminator=end, quoting=csv.QUOTE_ALL)
    Path("table.csv").write_bytes(content.removesuffix(end.encode()) if cut else content)
    read = tables.read(Path("table.csv"), header)
    assert list(read.itertuples(index=False, name=None)) == rows
    assert read.index.tolist() == list(range(2, len(rows) + 2))


ragged = st.lists(st.lists(names | st.sampled_from(["", "a", "b"]), max_size=3), max_size=5)
torn = st.lists(odd | st.sampled_from(["a", "b", "\n", ",", '"a"', '""']), max_size=14).map("".join)
contents = ragged.map(lambda rows: written_by_csv(rows, lineterminator="\n")) | torn.map(str.encode)


def outcome(header):
    try:
        return list(tables.read(Path("table.csv"), header).itertuples(index=False, name=None))
    except InputError as error:
        return str(error)


def by_csv(content, strict=False):
    with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file, strict=strict)]


@settings(deadline=None, max_examples=300)
@given(contents, st.sampled_from(["", "\n", "\ufeff", "\0"]), st.sampled_from(HEADERS[1:]))
def test_any_file_is_read_as_by_csv_or_refused_with_its_first_row_that_is_not_whole(rest, first, header):
    content = f"{first}{','.join(header)}\n".encode() + rest
    Path("table.csv").write_bytes(content)
    seen, *rows = by_csv(content)
    ragged = [(number, list(row)) for number, row in enumerate(rows, 2) if len(row) != len(header)]
    if seen != header:
        assert (
            outcome(header) == f"table.csv: the header is {','.join(seen)!r}, expected {','.join(header)!r}"
        )
    elif ragged:
        assert outcome(header) == f"table.csv, row {ragged[0][0]}: {ragged[0][1]} is not {', '.join(header)}"
    elif outcome(header) != rows:  # pandas takes no quote that stays open, which csv closes at the end
        assert (
            outcome(header) == "table.csv: not a CSV file in UTF-8 (its quotes do not enclose whole values)"
        )
        with pytest.raises(csv.Error):
            by_csv(content, strict=True)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("a", "['a']"),
        ("a,b,c", "['a', 'b', 'c']"),
        ("", "[]"),
        ('"a,b"', "['a,b']"),
        ('"a,b",c,', "['a,b', 'c', '']"),
        ("a,", "['a', '']"),
        (",b", "['', 'b']"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 15_000, 19_999])
def test_a_row_is_found_wherever_it_stands(row, told, place):
    """pandas reads in pieces of 256 kB, and holds a row against the one before it."""
    rows = [f"photos/{number}.jpg,castle" for number in range(20_000 if place > 1 else 3)]
    rows[place] = row
    Path("table.csv").write_text("\n".join(["path,class", *rows, ""]))
    with pytest.raises(InputError, match=re.escape(f"table.csv, row {place + 2}: {told} is not")):
        tables.read(Path("table.csv"), ("path", "class"), filled=2)


def test_a_long_row_does_not_make_good_for_a_short_one():
    for rows in ("a,b,c\na\n", "a\na,b,c\n", 'a,"b,c"\na\n', "a,b\na\na,b,c\n", '"a,b"\n"a",b,c\n', ",,\n\n"):
        Path("table.csv").write_text(f"path,class\n{rows}")
        with pytest.raises(InputError, match=r"row .* is not path, class"):
            tables.read(Path("table.csv"), ("path", "class"))


def test_numbers_are_written_as_str_has_them():
    rows = [(1, 0.1 + 0.2, 1e-7), (2, float("nan"), float("inf")), (3, 1e22, 1 / 3)]
    tables.write(Path("table.csv"), ("epoch", "loss", "rate"), rows)
    assert Path("table.csv").read_bytes() == written_by_csv(
        [("epoch", "loss", "rate"), *rows], lineterminator="\n"
    )


@pytest.mark.parametrize("name", ["~/table.csv", "~root/table.csv", "table.csv.gz", "table.zip"])
def test_the_name_of_a_file_is_only_its_name(name):
    tables.write(Path(name), ("path", "class"), [("001", "NA")])
    assert tables.read(Path(name), ("path", "class")).values.tolist() == [["001", "NA"]]


def test_what_is_missing_is_told_with_what_makes_it():
    with pytest.raises(InputError, match=r"^gone\.csv: no such file; `make it` makes it$"):
        tables.read(Path("gone.csv"), ("path",), made_by="make it")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_what_cannot_be_read_is_not_told_to_be_missing(unreadable, number):
    tables.write(Path("table.csv"), ("path", "class"), [])
    unreadable(Path("table.csv"), number)
    with pytest.raises(OSError) as caught:  # noqa: PT011, which is checked below
        tables.read(Path("table.csv"), ("path", "class"))
    assert caught.value.errno == number


@pytest.mark.parametrize("stage", ["retrieve", "rerank", "evaluate", "gallery"])
def test_a_stage_starts_without_what_is_slow_to_import(stage):
    code = f"import sys, stages.{stage}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "pandas"} & set(done.stdout.split())
