import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from landmarks import hdf5
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.searching import features, rankings

BROKEN = "damaged, or no file of landmarks features; to make it anew, run: find -L .dvc/cache -samefile "
LOCKING = """
import fcntl, sys, time
file = open(sys.argv[1], "r+b")
fcntl.{call}(file, fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "index.h5"
    photos = [Photo(f"photos/{row}.jpg", "castle") for row in range(30)]
    with hdf5.writing(path, features.KIND) as file:
        values = np.arange(120, dtype=np.float32).reshape(30, 4)
        features._write(file, values, photos, {"kind": "fake", "model_sha256": ""})
    ranked = rankings.Block(np.array([[1, 0]], np.int32), np.array([[0, 1]], np.float32))
    rankings.write(path.with_name("rankings.h5"), photos[:1], photos[:2], 2, [ranked], {})
    return path


@pytest.fixture
def elsewhere(store):
    """Run code in another process, which has begun when this returns, until the test ends."""
    started = []

    def run(code):
        started.append(subprocess.Popen([sys.executable, "-c", code, store], stdout=subprocess.PIPE))
        assert started[-1].stdout.readline()

    yield run
    for process in started:
        process.kill()
        process.communicate()


def read(path):
    with features.opened(path) as store:
        return store.features[:]


def refusal(path, opened=features.opened):
    path = path if opened is features.opened else path.with_name("rankings.h5")
    with pytest.raises(InputError) as caught, opened(path) as store:
        store.features[:]
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")
@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_file_that_another_program_has_locked_is_read(store, elsewhere, call):
    elsewhere(LOCKING.format(call=call))
    assert read(store).shape == (30, 4)


def failing(number, message):
    def fail(*_, **__):
        raise OSError(number, f"Unable to open file ({message}, errno = {number}, error message = '...')")

    return fail


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_lock_that_the_environment_asks_for_and_does_not_get_is_told(store, monkeypatch, number):
    # The library reads the variable once, when it is loaded.
    monkeypatch.setattr(h5py, "File", failing(number, "unable to lock file"))
    message = refusal(store)
    assert message.startswith("locked by another program, or on a file system that has no locks (")
    assert os.strerror(number) in message
    assert message.endswith("; set HDF5_USE_FILE_LOCKING=FALSE to read it")


def test_a_file_that_is_written_elsewhere_is_not_taken_for_broken(store, monkeypatch):
    monkeypatch.setattr(h5py, "File", failing(0, "file is already open for write"))
    message = refusal(store)
    assert message.startswith("another program writes to it, or broke off doing so (")
    assert "delete" not in message


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT]
)
@pytest.mark.parametrize("opened", [features.opened, rankings.opened])
def test_what_the_system_does_not_let_us_read_is_not_taken_for_broken(store, monkeypatch, opened, number):
    monkeypatch.setattr(h5py, "File", failing(number, "unable to open file: name = 'index.h5'"))
    assert refusal(store, opened) == f"cannot be read ({os.strerror(number)})"


def unreadable_folder(path):
    path.unlink()
    path.mkdir()


def circular_link(path):
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("spoil", "number"), [(unreadable_folder, errno.EISDIR), (circular_link, errno.ELOOP)]
)
def test_what_is_no_file_is_not_taken_for_broken(store, spoil, number):
    spoil(store)
    assert refusal(store) == f"cannot be read ({os.strerror(number)})"


def test_a_file_that_is_gone_is_told(store):
    store.unlink()
    assert refusal(store) == "no such file; `dvc repro` makes it"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds the open file in /proc")
def test_a_disk_that_fails_later_is_told(store):
    """The file descriptor is made one of a folder, whose reading fails as that of a disk may."""

    def read():
        with features.opened(store) as opened:
            folder = os.open(store.parent, os.O_RDONLY)
            [number] = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.resolve() == store]
            os.dup2(folder, number)
            os.close(folder)
            opened.features[:]

    with pytest.raises(InputError) as caught:
        read()
    assert str(caught.value) == f"{store}: cannot be read (Is a directory)"


def cut(share):
    def spoil(path):
        os.truncate(path, int(path.stat().st_size * share))

    return spoil


def header_overwritten(path):
    with path.open("r+b") as file:
        file.write(np.random.default_rng(0).bytes(64))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(100_000)),
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        header_overwritten,
        cut(0.001),
        cut(0.5),
        cut(0.999),
    ],
    ids=["empty", "zeros", "text", "header", "cut to a thousandth", "cut to half", "cut by a thousandth"],
)
def test_what_is_proved_broken_is_to_be_deleted(store, spoil):
    spoil(store)
    message = refusal(store)
    assert message == f"{BROKEN}{store} -exec rm -f {{}} +; rm -f {store}; dvc repro"


@pytest.mark.parametrize(
    ("opened", "what"), [(features.opened, "a feature store"), (rankings.opened, "a store of rankings")]
)
@pytest.mark.parametrize(
    "error",
    [
        OSError("Can't synchronously read data (ran off end of input buffer while decoding)"),
        RuntimeError("Error iterating over attributes (possibly corrupted file)"),
        KeyError("Unable to synchronously open object (object 'features' doesn't exist)"),
        UnicodeDecodeError("utf-8", b"\x87", 0, 1, "invalid start byte"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_damage_that_h5py_finds_while_it_reads_is_told(store, monkeypatch, opened, what, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(h5py.Group, "__getitem__", fail)
    assert refusal(store, opened) == f"not {what} ({error}); `dvc repro` makes it"


def test_an_error_of_another_file_is_not_blamed_on_an_open_one(store, tmp_path):
    elsewhere = OSError(errno.EIO, f"Can't read data (filename = '{tmp_path / 'other.h5'}')")
    with pytest.raises(OSError, match="other") as caught, features.opened(store):
        raise elsewhere
    assert caught.value is elsewhere
