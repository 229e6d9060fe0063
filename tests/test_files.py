import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from landmarks import errors
from landmarks.asking import cli
from landmarks.errors import InputError
from landmarks.files import damaged, filling, replacing, sha256
from landmarks.photos import catalog


def cli_with(app):
    """The command `landmarks` that does what `app` does."""
    with mock.patch.object(cli, "app", app):
        cli.main()


def test_what_the_block_wrote_replaces_the_old_file_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for content in ("old", "new"):
        with replacing(path) as temporary:
            temporary.write_text(content)
            assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.txt")}


def fill(folder, name, stop=None):
    with filling(folder) as new:
        (new / "below").mkdir()
        for place in range(3):
            (new / "below" / f"{name}{place}.txt").write_text(name)
            if stop and place:
                raise stop


def test_what_the_block_filled_replaces_the_old_folder_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "new" / "folder"
    for name in ("old", "new"):
        fill(folder, name)
    assert contents(folder) == {f"below/new{place}.txt": "new" for place in range(3)}
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    "stop", [ZeroDivisionError(), InputError("a photo is gone"), KeyboardInterrupt(), errors.Terminated(15)]
)
@pytest.mark.parametrize("before", [True, False], ids=["old", "none"])
def test_a_block_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path, stop, before):
    folder = tmp_path / "folder"
    if before:
        fill(folder, "old")
    with pytest.raises(type(stop)):
        fill(folder, "new", stop)
    assert contents(folder) == {f"below/old{place}.txt": "old" for place in range(3 * before)}
    assert list(tmp_path.iterdir()) == [folder] * before


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), errors.Terminated(15), OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("renames", [0, 1])
def test_a_run_that_stops_while_it_swaps_folders_leaves_the_old_one(tmp_path, monkeypatch, stop, renames):
    folder = tmp_path / "folder"
    fill(folder, "old")
    done, rename = [], Path.rename

    def stopped(self, target):
        done.append(target)
        if len(done) == renames + 1:
            raise stop
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(InputError if isinstance(stop, OSError) else type(stop)):
        fill(folder, "new")
    assert contents(folder) == {f"below/old{place}.txt": "old" for place in range(3)}
    assert list(tmp_path.iterdir()) == [folder]


KILLED = """
import os, signal, sys
from pathlib import Path
from landmarks.files import filling

renames, rename = [], Path.rename

def killed(self, target):
    if len(renames) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    renames.append(target)
    return rename(self, target)

Path.rename = killed
with filling(Path("folder")) as new:
    (new / "new.txt").write_text("new")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("renames", [0, 1])
def test_what_a_killed_run_left_is_put_in_order_by_the_next_even_if_that_fails(
    tmp_path, monkeypatch, renames
):
    monkeypatch.chdir(tmp_path)
    folder = Path("folder")
    fill(folder, "old")
    old = contents(folder)
    command = [sys.executable, "-c", KILLED, str(renames)]
    path = os.pathsep.join(sys.path)
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode == -signal.SIGKILL
    assert contents(folder) in (old, {})
    with pytest.raises(ZeroDivisionError):
        fill(folder, "new", ZeroDivisionError())
    assert contents(folder) == old
    fill(folder, "new")
    assert contents(folder) == {f"below/new{place}.txt": "new" for place in range(3)}
    assert list(tmp_path.iterdir()) == [tmp_path / folder]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize("kind", ["file", "folder", "file that fails", "folder that fails"])
def test_who_makes_what_another_is_making_waits_for_it(tmp_path, caplog, kind):
    path, starting, seen = tmp_path / "out", threading.Barrier(3), []

    def make(name):
        starting.wait()
        with suppress(ZeroDivisionError), (filling if "folder" in kind else replacing)(path) as new:
            file = new / "a" if "folder" in kind else new
            for _ in range(20):
                with file.open("a") as opened:
                    opened.write(name)
                time.sleep(0.001)
            seen.append(file.read_text())
            if name == "1" and "fails" in kind:
                raise ZeroDivisionError

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(make, "123"))
    assert sorted(seen) == ["1" * 20, "2" * 20, "3" * 20]
    assert (path / "a" if "folder" in kind else path).read_text() in seen
    assert list(tmp_path.iterdir()) == [path]
    assert "out.tmp: waiting for another process to finish it" in caplog.text


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk is full; free some space"),
        (errno.EACCES, "cannot be written"),
        (errno.EPERM, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.ENAMETOOLONG, "cannot be written"),
    ],
    ids=errno.errorcode.get,
)
def test_a_full_or_unwritable_disk_is_said_with_the_final_name(tmp_path, number, message):
    path = tmp_path / "file.txt"

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(number, "as the system says it", str(temporary))

    with pytest.raises(InputError, match=message) as caught:
        write()
    assert str(caught.value).startswith(f"{path}: ")
    assert list(tmp_path.iterdir()) == []


def test_other_system_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="broken"), replacing(tmp_path / "file.txt"):
        raise OSError(errno.EIO, "broken")


def test_sha256_is_the_published_digest_of_abc(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bad_input_ends_a_stage_with_its_message_and_exit_code_1():
    def main():
        raise InputError("params.yaml: distance: 'L4' is not allowed")

    with pytest.raises(SystemExit) as caught:
        errors.run(main)
    # sys.exit prints a text to stderr and exits with 1.
    assert caught.value.code == "error: params.yaml: distance: 'L4' is not allowed"


def spoilt(tmp_path):
    """Ways in which a file cannot be read; root may read whatever there is."""
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.touch()
    folder.mkdir()
    link.symlink_to(link)
    return {
        folder: "Is a directory",
        file / "x": "Not a directory",
        link: "Too many levels of symbolic links",
    }


def test_a_file_that_cannot_be_read_ends_a_stage_with_a_line_whoever_reads_it(tmp_path):
    for path, reason in spoilt(tmp_path).items():
        with pytest.raises(SystemExit) as caught:
            errors.run(lambda path=path: catalog.read_photos(path))
        assert caught.value.code == f"error: {path}: {reason}"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("run", [errors.run, cli_with])
def test_permissions_and_disks_that_fail_end_a_stage_or_a_command_with_a_line(number, run):
    def main():
        raise OSError(number, os.strerror(number), "data/catalog.csv")

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == f"error: data/catalog.csv: {os.strerror(number)}"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "of no file"),
        OSError(errno.EIO, "of a descriptor", 3),
        OSError(errno.ENOENT, "no such file", "temporary"),
        OSError(errno.ECONNRESET, "of a connection", "host"),
        OSError("only words"),
    ],
    ids=str,
)
@pytest.mark.parametrize("run", [errors.run, cli_with])
def test_other_errors_of_the_system_keep_their_traceback(error, run):
    def main():
        raise error

    with pytest.raises(OSError, match=re.escape(str(error))) as caught:
        run(main)
    assert caught.value is error


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError):
        errors.run(lambda: {}["a"])


def test_an_interrupted_stage_exits_with_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        errors.run(main)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs find and a shell")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["", "a cache that is a link"])
@pytest.mark.parametrize("link", ["hardlink_to", "symlink_to", "write_bytes"])
@pytest.mark.parametrize("name", ["index.h5", "it's mine.h5", "故宫 1.csv"])
def test_the_commands_that_heal_remove_the_file_and_what_the_cache_has_of_it(tmp_path, elsewhere, link, name):
    cache, path = tmp_path / ".dvc/cache", tmp_path / name
    cache.parent.mkdir()
    if elsewhere:
        (tmp_path / "disk").mkdir()
        cache.symlink_to(tmp_path / "disk")
    for below in ("12/34", "12/56"):
        (cache / below).parent.mkdir(parents=True, exist_ok=True)
        (cache / below).write_bytes(b"damaged")
    getattr(path, link)(b"damaged" if link == "write_bytes" else cache / "12/34")
    commands = str(damaged(Path(name))).partition("run: ")[2].removesuffix("dvc repro")
    subprocess.run(commands, shell=True, cwd=tmp_path, check=True)
    assert not os.path.lexists(path)
    left = {file.name for file in (cache / "12").iterdir()}
    assert left == ({"34", "56"} if link == "write_bytes" else {"56"})
