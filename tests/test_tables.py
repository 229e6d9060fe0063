import csv
import errno
import io
import logging
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh128_hexdigest

from landmarks import tables
from landmarks.errors import DamagedError, InputError

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


TABLE = [(f"data/mine/images/城堡/{row}.jpg", f"城堡 {row % 5}") for row in range(40)]


def write_table(rows=TABLE, **options):
    tables.write(path := Path("splits/test.csv"), ("path", "class"), rows, **options)
    return path, Path("splits/test.csv.xxh")


def test_beside_a_table_stands_the_line_of_xxhsum():
    path, checksum = write_table()
    assert checksum.read_text() == f"{xxh128_hexdigest(path.read_bytes())}  test.csv\n"
    assert tables.checksum_of(path) == checksum


def flipped(content, chance):
    place = chance.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8


def cut_at_a_line_end(content, chance):
    lines = bytes(content).splitlines(keepends=True)
    content[:] = b"".join(lines[: chance.randrange(1, len(lines))])


def rows_swapped(content, chance):
    lines = bytes(content).splitlines(keepends=True)
    one, other = chance.sample(range(1, len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    content[:] = b"".join(lines)


def a_row_twice(content, chance):
    content += chance.choice(bytes(content).splitlines(keepends=True)[1:])


def zeros(content, chance):
    start = chance.randrange(len(content) - 16)
    content[start : start + 16] = bytes(16)


def ends_of_windows(content, _):
    content[:] = content.replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    "damage", [flipped, cut_at_a_line_end, rows_swapped, a_row_twice, zeros, ends_of_windows]
)
def test_a_damaged_table_is_told_of_with_what_makes_it_anew(damage):
    path, _ = write_table()
    whole, chance = path.read_bytes(), random.Random(damage.__name__)
    for _ in range(20):
        damage(content := bytearray(whole), chance)
        path.write_bytes(content)
        with pytest.raises(DamagedError) as error:
            tables.read(path, ("path", "class"))
        assert str(error.value) == (
            "splits/test.csv: not as test.csv.xxh says; if you edited it, run: "
            "python -m landmarks.tables splits/test.csv; "
            "to make it anew, run: find -L .dvc/cache -samefile splits/test.csv -exec rm -f {} +; "
            "find -L .dvc/cache -samefile splits/test.csv.xxh -exec rm -f {} +; "
            "rm -f splits/test.csv splits/test.csv.xxh; dvc repro"
        )


@pytest.mark.parametrize("damage", [flipped, zeros, lambda content, _: content.clear(), ends_of_windows])
def test_a_damaged_checksum_is_told_of(damage):
    path, checksum = write_table()
    whole, chance = checksum.read_bytes(), random.Random(0)
    for _ in range(20):
        damage(content := bytearray(whole), chance)
        checksum.write_bytes(content)
        with pytest.raises(DamagedError, match=r"^splits/test\.csv: not as test\.csv\.xxh says"):
            tables.read(path, ("path", "class"))


@pytest.mark.parametrize("name", ["test.csv", "故宫.csv", "it's mine.csv"])
def test_a_table_edited_by_hand_is_read_after_the_command_that_the_message_names(name):
    path, rows = Path("splits", name), [("a", "x"), ("é", "")]
    tables.write(path, ("path", "class"), TABLE)
    tables.write(Path("edited.csv"), ("path", "class"), rows, with_checksum=False)
    Path("edited.csv").replace(path)
    with pytest.raises(DamagedError) as error:
        tables.read(path, ("path", "class"))
    _, program, *arguments = shlex.split(re.search(r"if you edited it, run: (.*?); to", str(error.value))[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, program, *arguments], env=environment, check=True)
    assert tables.read(path, ("path", "class")).values.tolist() == list(map(list, rows))
    written = tables.checksum_of(path).read_bytes()
    tables.write(path, ("path", "class"), rows)
    assert tables.checksum_of(path).read_bytes() == written


def test_the_checksum_of_another_table_does_not_fit():
    write_table()
    (other := Path("splits/index.csv")).write_bytes(Path("splits/test.csv").read_bytes())
    Path("splits/index.csv.xxh").write_bytes(Path("splits/test.csv.xxh").read_bytes())
    with pytest.raises(DamagedError):
        tables.read(other, ("path", "class"))


def test_a_checksum_that_cannot_be_read_is_told_of():
    path, checksum = write_table()
    checksum.unlink()
    checksum.mkdir()
    with pytest.raises(InputError, match=r"^splits/test\.csv\.xxh: cannot be read \(Is a directory\)$"):
        tables.read(path, ("path", "class"))


def test_a_table_without_a_checksum_is_read_with_a_warning(caplog):
    path, checksum = write_table()
    tables.read(path, ("path", "class"))
    assert caplog.messages == []
    checksum.unlink()
    assert tables.read(path, ("path", "class")).values.tolist() == list(map(list, TABLE))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "splits/test.csv: there is no test.csv.xxh to check it by; is it whole?")
    ]


def test_a_table_for_people_has_no_checksum_and_is_not_held_against_one(caplog):
    write_table(TABLE[:3])
    path, checksum = write_table(with_checksum=False)
    assert not checksum.exists()
    assert len(tables.read(path, ("path", "class"), with_checksum=False)) == len(TABLE)
    checksum.write_text("that of another")
    assert len(tables.read(path, ("path", "class"), with_checksum=False)) == len(TABLE)
    assert caplog.messages == []


@pytest.mark.parametrize("full", [".test.csv.tmp", ".test.csv.xxh.tmp"])
def test_no_checksum_of_an_older_table_stands_beside_a_newer_one(monkeypatch, full):
    path, checksum = write_table(TABLE[:3])
    before, write_bytes = path.read_bytes(), Path.write_bytes

    def refuse(self, content):
        if self.name == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match="the disk is full"):
        write_table()
    assert checksum.exists() == (full == ".test.csv.tmp") == (path.read_bytes() == before)
    assert sorted(Path("splits").iterdir()) == sorted({path, *[checksum][: checksum.exists()]})


def test_who_edits_a_table_writes_its_checksum_anew(monkeypatch):
    path, _ = write_table()
    path.write_bytes(path.read_bytes() + b"data/mine/more.jpg,more\n")
    monkeypatch.setattr(sys, "argv", ["tables", path.as_posix()])
    tables.main()
    assert len(tables.read(path, ("path", "class"))) == len(TABLE) + 1
    monkeypatch.setattr(sys, "argv", ["tables", "gone.csv"])
    with pytest.raises(InputError, match=r"^gone\.csv: no such file"):
        tables.main()
    assert not Path("gone.csv.xxh").exists()
