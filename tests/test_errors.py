"""How a stage or a command ends, whatever its streams are and whatever signals come."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from landmarks import errors
from landmarks.asking import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture
def before():
    """The handlers of signals, and after the test the same again."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield handlers
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def long_ago(monkeypatch):
    monkeypatch.setattr(errors, "_last", float("-inf"))


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ([signal.SIGINT], "interrupted"),
        ([signal.SIGTERM], "terminated"),
        ([signal.SIGHUP], "terminated"),
        ([signal.SIGHUP, signal.SIGHUP], "terminated"),
        ([signal.SIGTERM, signal.SIGHUP, signal.SIGTERM], "terminated"),
        ([signal.SIGTERM, signal.SIGINT], "interrupted"),
    ],
    ids=str,
)
def test_a_stage_that_is_ended_says_so_in_a_line_and_cleans_up(before, capsys, numbers, word):
    ended = []

    def main():
        first, *more = numbers
        try:
            signal.raise_signal(first)
        finally:
            for number in more:
                signal.raise_signal(number)
            ended.append("cleaned up")

    with pytest.raises(SystemExit) as caught:
        errors.run(main)
    last = signal.SIGINT if signal.SIGINT in numbers else numbers[0]
    assert (caught.value.code, capsys.readouterr().err) == (128 + last, f"{word}\n")
    assert bool(ended) == (signal.SIGINT not in numbers[1:])
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_that_is_ignored_as_by_nohup_stays_ignored(before, capsys):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    errors.run(lambda: signal.raise_signal(signal.SIGHUP))
    assert capsys.readouterr().err == ""


def test_a_second_signal_long_after_the_first_is_heeded(before):
    with errors.terminable(errors.terminate):
        for _ in range(2):
            with pytest.raises(errors.Terminated):
                signal.raise_signal(signal.SIGTERM)
            errors._last -= 60


def test_ctrl_c_alone_disturbs_the_end_that_another_signal_has_begun(before):
    with errors.terminable(errors.terminate, signal.SIGINT):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            with pytest.raises(KeyboardInterrupt) as caught:
                signal.raise_signal(number)
            assert caught.type is (KeyboardInterrupt if number == signal.SIGINT else errors.Terminated)
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)


def raising(error):
    def fail():
        raise error

    return fail


@pytest.fixture(params=["stage", "command"])
def end_with(request, monkeypatch):
    """Let a stage or a command end with an error."""
    if request.param == "stage":
        return lambda error: errors.run(raising(error))

    def command(error):
        monkeypatch.setattr(cli, "app", raising(error))
        cli.main()

    return command


@pytest.mark.parametrize("number", errors.OF_FILES, ids=errno.errorcode.get)
def test_a_file_of_which_the_system_refuses_something_is_a_line(end_with, number):
    with pytest.raises(SystemExit) as caught:
        end_with(OSError(number, os.strerror(number), "data/mine"))
    assert caught.value.code == f"error: data/mine: {os.strerror(number)}"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "of no file"), OSError(errno.EADDRINUSE, "busy", "x"), ValueError("x")],
    ids=repr,
)
def test_what_no_user_can_mend_is_raised(end_with, error):
    with pytest.raises(type(error)) as caught:
        end_with(error)
    assert caught.value is error


STAGE = """
import logging, sys
from landmarks.errors import InputError, run

def main():
    print("printed " * {times})
    logging.warning("logged")
    print("told", file=sys.stderr)
    with open({file!r}, "w") as file:
        file.write(str(file.fileno()))
    if {fails}:
        raise InputError("params.yaml: wrong")

run(main)
"""


@pytest.fixture
def stage(tmp_path):
    """Run a stage, its streams redirected by a shell; returns the exit code, what came, a number of a file.

    `unread`: the streams (1, 2) that are pipes which nobody reads.
    """

    def run(redirections="", unread=(), unbuffered=False, fails=False, times=1):
        file = tmp_path / "file"
        code = STAGE.format(times=times, file=str(file), fails=fails)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1" if unbuffered else ""}
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, code],
            env=env,
            stdout=writer if 1 in unread else subprocess.PIPE,
            stderr=writer if 2 in unread else subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        number = int(file.read_text()) if file.exists() else None
        return done.returncode, done.stdout, done.stderr, number

    return run


NO_SPACE = "error: stdout: cannot be written (No space left on device)\n"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
UNBUFFERED = pytest.mark.parametrize("unbuffered", [False, True], ids=["buffered", "unbuffered"])


@pytest.mark.parametrize("fails", [False, True], ids=["whole", "failing"])
@pytest.mark.parametrize(
    "where",
    [
        {"redirections": "2>&-"},
        {"redirections": "<&- 2>&-"},
        pytest.param({"redirections": "2>/dev/full"}, marks=needs_full),
        {"unread": [2]},
    ],
    ids=str,
)
def test_what_stderr_does_not_take_is_lost_and_goes_nowhere_else(stage, where, fails):
    code, stdout, stderr, number = stage(**where, fails=fails)
    assert (code, stdout, stderr or "") == (fails, "printed \n", "")
    assert number > 2


@UNBUFFERED
@pytest.mark.parametrize("times", [1, 5000])
def test_a_pipe_that_nobody_reads_ends_a_stage_without_a_word(stage, unbuffered, times):
    code, _, stderr, _ = stage(unread=[1], unbuffered=unbuffered, times=times)
    assert code == 1
    assert stderr in ("", "logged\ntold\n")  # as the buffer has it
    assert stage(unread=[1, 2], unbuffered=unbuffered, times=times)[0] == 1


@needs_full
@UNBUFFERED
@pytest.mark.parametrize("times", [1, 5000])
def test_a_full_disk_behind_stdout_is_an_error(stage, unbuffered, times):
    code, _, stderr, _ = stage(">/dev/full", unbuffered=unbuffered, times=times)
    assert code == 1
    assert (
        stderr.removeprefix("logged\ntold\n")
        == "error: stdout: cannot be written (No space left on device)\n"
    )
    assert stage(">/dev/full 2>&1", unbuffered=unbuffered, times=times)[0] == 1


@pytest.mark.parametrize("fails", [False, True], ids=["whole", "failing"])
@pytest.mark.parametrize("redirections", [">&-", "<&- >&-"])
def test_a_closed_stdout_takes_everything(stage, redirections, fails):
    code, stdout, stderr, number = stage(redirections, fails=fails)
    assert (code, stdout) == (fails, "")
    assert stderr == "logged\ntold\n" + "error: params.yaml: wrong\n" * fails
    assert number > 2


# Runs commands (argv, as JSON) in forks of a process that has run them before, which is quick: each with both
# streams to files, and with one of them closed, full, or a pipe that nobody reads. A line of JSON for each.
COMMANDS = """
import contextlib, json, os, sys, traceback
from landmarks.asking import cli

def stream(fd, how):
    if how == "closed":
        os.close(fd)
        return None
    if how == "unread":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full" if how == "full" else str(fd), os.O_WRONLY | os.O_CREAT)
    os.dup2(writer, fd)
    os.close(writer)
    return open(fd, "w", closefd=False, buffering=1 if fd == 2 else -1)

def end():  # as Python does it
    try:
        cli.main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code
    except BaseException:
        traceback.print_exc()
        return 1

results = os.dup(1)
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        end()
    for how in ("file", "closed", "unread", "full"):
        for fd in (1, 2):
            pid = os.fork()
            if not pid:
                sys.stdout, sys.stderr = (stream(each, how if each == fd else "file") for each in (1, 2))
                code = end()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            came = []
            for name in ("1", "2"):
                with open(name, "a+") as file:
                    file.seek(0)
                    came.append(file.read())
                os.unlink(name)
            os.write(results, (json.dumps([how, fd, code, *came]) + chr(10)).encode())
"""


@needs_full
def test_commands_heed_what_stdout_and_stderr_take(built, tmp_path):
    photo, broken = str(built / "queries/0.png"), str(built / "params.yaml")
    commands = {
        ("predict", photo, broken): 1,
        ("query", "--top", "9", "--json", photo, photo): 0,
        ("time", "--photos", "1", "--queries", "2"): 0,
        ("evaluate-model", "--split", "nothing"): 2,
        ("predict", "--help"): 0,
    }
    for name in ("params.yaml", "models", "features", "data"):
        (tmp_path / name).symlink_to(built / name)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(list(commands))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    runs = [json.loads(re.sub(r" *\d+\.\d+", " 0.0", line)) for line in done.stdout.splitlines()]
    assert len(runs) == 8 * len(commands)
    for number, (command, usual) in enumerate(commands.items()):
        (_, _, code, out, err), *others = runs[8 * number : 8 * number + 8]
        assert (code, bool(out), "rror: " in err) == (usual, usual != 2, usual > 0)
        for how, fd, code, came, told in others:
            seen = code, came, told
            if fd == 2 and how != "file":
                assert seen == (usual, out, ""), (command, how)
            elif not out or how in ("file", "closed"):
                assert seen == (usual, out if how == "file" else "", err), (command, how)
            elif how == "unread":
                assert seen == (1, "", err), command
            else:
                assert seen == (1, "", err + NO_SPACE), command


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("a\x1b[2J\x1b[1;1Hb", r"a\x1b[2J\x1b[1;1Hb"),
        ("a\rb", r"a\rb"),
        ("a\u202eb\u200bc", r"a\u202eb\u200bc"),
        ("bell\a del\x7f c1\x9b", r"bell\x07 del\x7f c1\x9b"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("Đền Ngọc Sơn 故宫 'quoted' 100 %", "Đền Ngọc Sơn 故宫 'quoted' 100 %"),
    ],
)
@pytest.mark.parametrize("guarded", [errors.run, lambda main: command(main)])
def test_what_acts_on_a_terminal_is_escaped(monkeypatch, guarded, name, seen):
    def main():
        raise errors.InputError(f"{name}: no photo\nand another line")

    with pytest.raises(SystemExit) as caught:
        guarded(main)
    assert caught.value.code == f"error: {seen}: no photo\nand another line"


def command(main):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "app", main)
        cli.main()
