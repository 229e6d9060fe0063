import contextlib
import itertools
import os
import random
import re
import sys
from pathlib import Path

import pytest
import tqdm.std

from landmarks import progress

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clock(monkeypatch):
    """A pretended time, which the test moves on."""
    now = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    return now


def iterated(steps, count, **settings):
    assert list(progress.tqdm(steps, "describing", count, unit="photo", **settings)) == list(range(count))


def updated(steps, count, **settings):
    with progress.tqdm(total=count, desc="describing", unit="photo", **settings) as bar:
        for _ in steps:
            bar.update()


def with_figures(steps, count, **settings):
    with progress.tqdm(total=count, desc="describing", unit="photo", **settings) as bar:
        for number in steps:
            bar.update()
            bar.set_postfix(loss=number)


def of_unknown_length(steps, count, **settings):
    with progress.tqdm(desc="describing", unit="B", unit_scale=True, **settings) as bar:
        for _ in steps:
            bar.update(1000)


KINDS = pytest.mark.parametrize(
    "kind", [iterated, updated, with_figures, of_unknown_length], ids=lambda kind: kind.__name__
)


@KINDS
@pytest.mark.parametrize("leave", [True, False])
@pytest.mark.parametrize("delay", [0, 1])
def test_without_a_terminal_there_is_a_line_now_and_then_and_one_at_the_end(
    clock, capsys, kind, leave, delay
):
    chance = random.Random(delay)
    count = chance.randrange(500, 5000)
    told = []

    def steps():
        for number in range(count):
            clock[0] += chance.expovariate(4)
            yield number
            if text := capsys.readouterr().err:
                told.append((clock[0], text))

    kind(steps(), count, leave=leave, delay=delay)
    end = capsys.readouterr().err
    seconds = clock[0] - 1000
    assert "\r" not in end + "".join(text for _, text in told)
    moments, lines = zip(*told, strict=True)
    assert all(later - earlier >= progress.SECONDS for earlier, later in itertools.pairwise(moments))
    assert seconds / progress.SECONDS / 1.1 - 2 <= len(lines) <= seconds / progress.SECONDS
    for line in lines:
        assert re.fullmatch(r"describing: .*\d.*\[\d\d:\d\d.*/s.*\]\n", line)
    if kind is not of_unknown_length:
        counts = [re.search(rf"(\d+)/{count} \[\d\d:\d\d<\d\d:\d\d, ", line)[1] for line in lines]
        assert sorted(map(int, counts)) == list(map(int, counts))
    if leave:
        assert end.startswith("describing: 100% " if kind is not of_unknown_length else "describing: ")
        assert end.count("\n") == 1
        assert end.endswith("]\n")
    else:
        assert end == ""


def test_what_ends_early_ends_with_how_far_it_came(clock, capsys):
    def fail():
        for number in progress.tqdm(range(40), "describing", unit="photo"):
            clock[0] += 0.25
            1 / (number - 9)

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capsys.readouterr().err == "describing:  22% 9/40 [00:02<00:08,  3.60photo/s]\n"


def test_a_bar_that_is_switched_off_writes_nothing(capsys):
    updated(range(3), 3, disable=True)
    assert capsys.readouterr().err == ""


@KINDS
def test_on_a_terminal_there_is_a_bar(monkeypatch, kind):
    termios = pytest.importorskip("termios", reason="there are no pseudo-terminals")
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    with open(writer, "w") as terminal:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", terminal)
        kind(iter(range(20)), 20)
    drawn = b""
    with contextlib.suppress(OSError):  # by which Linux says that it has been read whole
        while more := os.read(reader, 1 << 16):
            drawn += more
    os.close(reader)
    drawn = drawn.decode()
    assert drawn.count("\r") >= 2
    assert drawn.startswith("\rdescribing: ")
    if kind is not of_unknown_length:
        assert "describing: 100%|█" in drawn


def test_every_bar_of_the_project_is_of_this_kind():
    sources = [
        path for folder in ("landmarks", "stages", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    importers = [
        path.name
        for path in sources
        if re.search(r"^\s*(from|import) tqdm", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert importers == ["progress.py"]
