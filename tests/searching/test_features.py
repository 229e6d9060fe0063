import errno
import functools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from landmarks.errors import InputError
from landmarks.files import held
from landmarks.photos.catalog import HEADER, Photo
from landmarks.photos.images import Crop
from landmarks.searching import features

ATTRIBUTES = {
    "kind": "fake",
    "model_sha256": "12ab",
    "image_size": 224,
    "pooling": "avgpool",
    "normalise": True,
}
STORE = Path("features/index.h5")
BATCH = 3


class InterruptionError(Exception):
    """Stands for Ctrl-C and the like."""


class Fake:
    """Describes a photo by the first three bytes of its file; may stop before a batch."""

    kind = "fake"
    dimensions = 3

    def __init__(self, stop_before=None):
        self.stop_before = stop_before
        self.described = []

    @staticmethod
    def descriptor(path):
        return np.frombuffer(Path(path).read_bytes()[:3], np.uint8).astype(np.float32) / 7

    def describe(self, paths, batch_size):
        for number, start in enumerate(range(0, len(paths), batch_size)):
            if number == self.stop_before:
                raise InterruptionError
            batch = [getattr(path, "path", path) for path in paths[start : start + batch_size]]  # of a crop
            self.described += [path.name for path in batch]
            yield np.stack([self.descriptor(path) for path in batch])

    def tensors(self):
        return {}

    def settings(self):
        return {}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = []
    for number, name in enumerate(["a", "b c", "ç,ü", "001", "NA", "故宫", "🗼", 'q"uote', "é\u0301", "z"]):
        path = Path("photos", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number + 1, 7 * number, 255 - number]))
        rows.append(Photo(path.as_posix(), f"class {name}"))
    return rows


def extract(photos, describer=None, attributes=ATTRIBUTES, batch_size=BATCH, store=STORE):
    describer = describer or Fake()
    features.extract(store, photos, describer, attributes, batch_size)
    return describer.described


def interrupt(photos, batches):
    with pytest.raises(InterruptionError):
        extract(photos, Fake(stop_before=batches))
    assert not STORE.exists()
    [partial] = STORE.parent.iterdir()
    return partial


def names(photos):
    return [Path(photo.image_path).name for photo in photos]


@pytest.mark.parametrize("block_bytes", [24, features.BLOCK_BYTES])
def test_a_store_holds_the_descriptors_names_and_attributes_in_order(monkeypatch, photos, block_bytes):
    monkeypatch.setattr(features, "BLOCK_BYTES", block_bytes)
    assert extract(photos) == names(photos)
    with h5py.File(STORE) as file:
        assert set(file) == {"features", "features_xxh3", "image_path", "class_image"}
        stored = file["features"]
        assert stored.dtype == np.float32
        assert stored.chunks is None  # in one piece
        np.testing.assert_array_equal(stored, [Fake.descriptor(photo.image_path) for photo in photos])
        for field in HEADER:
            assert h5py.check_string_dtype(file[field].dtype).encoding == "utf-8"
            assert [value.decode() for value in file[field]] == [getattr(photo, field) for photo in photos]
        assert dict(file.attrs) == ATTRIBUTES
    with features.opened(STORE) as store:
        assert store.photos == photos
        assert store.attributes == ATTRIBUTES
        assert store.features.shape == (10, 3)
    assert list(STORE.parent.iterdir()) == [STORE]


def test_two_runs_give_the_same_bytes(photos):
    extract(photos)
    time.sleep(1.1)  # HDF5 can store times, in seconds
    other = Path("other/place.h5")
    extract(photos, store=other)
    assert other.read_bytes() == STORE.read_bytes()


def test_of_a_photo_with_a_box_the_crop_is_described_and_the_box_kept(photos):
    box = (1.0, 2.5, 30.0, 40.0)
    photos = [*photos[:2], photos[2]._replace(box=box)]
    sources = []

    class Noting(Fake):
        def describe(self, given, batch_size):
            sources.extend(given)
            return super().describe(given, batch_size)

    extract(photos, Noting())
    paths = [Path(photo.image_path) for photo in photos]
    assert sources == [paths[0], paths[1], Crop(paths[2], box)]
    with features.opened(STORE) as store:
        assert store.photos == photos


@pytest.mark.parametrize("batches", range(4))
def test_an_interrupted_run_goes_on_where_it_stopped(photos, batches):
    extract(photos)
    undisturbed = STORE.read_bytes()
    STORE.unlink()

    interrupt(photos, batches)

    assert extract(photos) == names(photos)[batches * BATCH :]
    assert STORE.read_bytes() == undisturbed
    assert list(STORE.parent.iterdir()) == [STORE]


def test_nothing_is_described_again_when_only_the_writing_failed(photos, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, "create_dataset", raising(InterruptionError()))
        with pytest.raises(InterruptionError):
            extract(photos)
    assert not STORE.exists()
    assert extract(photos) == []
    with features.opened(STORE) as store:
        np.testing.assert_array_equal(store.features, [Fake.descriptor(photo.image_path) for photo in photos])


@pytest.mark.parametrize("cut", [1, 4, 11, 12, 36, 37, 60, 80, 100, 120, 135])
def test_a_torn_partial_file_is_mended(photos, cut):
    extract(photos)
    undisturbed = STORE.read_bytes()
    STORE.unlink()
    partial = interrupt(photos, 2)
    size = partial.stat().st_size
    os.truncate(partial, size - cut)

    described = extract(photos)

    assert STORE.read_bytes() == undisturbed
    assert described == names(photos)[-len(described) :]
    assert len(described) > 4


def replace_photo(photos):
    path = Path(photos[1].image_path)
    path.write_bytes(b"other bytes")
    return {}


def edit_photo(photos):
    """As a program that turns a pixel black: the size stays, the time does not."""
    path = Path(photos[1].image_path)
    before = path.stat()
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    return {}


changes = {
    "model": lambda photos: {"attributes": {**ATTRIBUTES, "model_sha256": "34cd"}},
    "attribute": lambda photos: {"attributes": {**ATTRIBUTES, "image_size": 112}},
    "new attribute": lambda photos: {"attributes": {**ATTRIBUTES, "more": 1}},
    "batch size": lambda photos: {"batch_size": 2},
    "bytes of a photo": replace_photo,
    "a byte of a photo": edit_photo,
    "order": lambda photos: {"photos": photos[::-1]},
    "fewer photos": lambda photos: {"photos": photos[:-1]},
    "box": lambda photos: {"photos": [photos[0]._replace(box=(0.0, 0.0, 9.0, 9.0)), *photos[1:]]},
    "class": lambda photos: {"photos": [photos[0]._replace(class_image="x"), *photos[1:]]},
}


@pytest.mark.parametrize("change", changes)
def test_what_changed_since_an_interruption_starts_over(photos, change):
    interrupt(photos, 2)
    arguments = {"photos": photos, **changes[change](photos)}
    assert extract(**arguments) == names(arguments["photos"])
    with features.opened(STORE) as store:
        assert store.photos == arguments["photos"]
        assert store.attributes == arguments.get("attributes", ATTRIBUTES)
        expected = [Fake.descriptor(photo.image_path) for photo in arguments["photos"]]
        np.testing.assert_array_equal(store.features, expected)


EVERY_TYPE = {**ATTRIBUTES, "gem_p": 3.0, "scales": [1.0, 0.7071], "sizes": [1, 2], "flip": False, "none": []}


def left(path, batch_size=BATCH):
    """Whether the `.partial` beside the store at `path` is left by a stage that reads the store."""
    with features.opened(path) as store:
        features.sweep(path, store, batch_size)
    return path.with_name(path.name + ".partial").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that tell who holds a file")
@pytest.mark.parametrize("batches", range(4))
@pytest.mark.parametrize("box", [None, (0.0, 0.5, 9.0, 9.0)])
def test_of_what_a_whole_store_holds_no_part_is_left(photos, batches, box):
    photos = [*photos[:1], photos[1]._replace(box=box), *photos[2:]]
    with pytest.raises(InterruptionError):
        extract(photos, Fake(stop_before=batches), EVERY_TYPE)
    partial = Path("features/index.h5.partial").read_bytes()
    extract(photos, attributes=EVERY_TYPE)
    Path("features/index.h5.partial").write_bytes(partial)
    assert not left(STORE)


@pytest.mark.parametrize("change", changes)
def test_what_extract_can_still_go_on_from_is_left_and_gone_on_from(photos, change):
    extract(photos)
    arguments = {"photos": photos, **changes[change](photos)}
    STORE.rename("restored")
    with pytest.raises(InterruptionError):
        extract(describer=Fake(stop_before=2), **arguments)
    Path("restored").rename(STORE)
    assert left(STORE)
    size = arguments.get("batch_size", BATCH)
    assert extract(**arguments) == names(arguments["photos"])[2 * size :]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that tell who holds a file")
@pytest.mark.parametrize("content", [b"", b"0a" * 20, b"0a" * 32, b"\0" * 200, b"PK\3\4" * 100])
def test_a_partial_file_that_no_extract_goes_on_from_is_removed(photos, content):
    extract(photos)
    Path("features/index.h5.partial").write_bytes(content)
    assert not left(STORE)


@pytest.mark.parametrize("missing", [False, True])
def test_a_partial_file_is_left_where_it_is_written_or_nothing_is_known_of_its_photos(photos, missing):
    extract(photos)
    partial = Path("features/index.h5.partial")
    with features.opened(STORE) as store:
        key = features._fingerprint(photos, store.attributes, BATCH)
        partial.write_bytes(key.encode() + store.features[:2].tobytes())
    if missing:
        Path(photos[3].image_path).rename("elsewhere")
        assert left(STORE)
    else:
        with held(partial):
            assert left(STORE)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize("stop_before", [None, 1, 3])
def test_of_two_that_describe_the_same_photos_at_a_time_the_second_waits(photos, stop_before):
    extract(photos, store=Path("expected.h5"))
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Fake):
        def describe(self, paths, batch_size):
            for block in super().describe(paths, batch_size):
                yield block
                begun.set()
                assert go_on.wait(5)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(extract, photos, Slow(stop_before))
        assert begun.wait(5)
        second = pool.submit(extract, photos, fake := Fake())
        time.sleep(0.05)
        assert fake.described == []
        go_on.set()
        assert second.result() == names(photos)[BATCH * (stop_before or 0) :]
        assert isinstance(first.exception(), InterruptionError if stop_before else type(None))
    assert STORE.read_bytes() == Path("expected.h5").read_bytes()
    assert list(STORE.parent.iterdir()) == [STORE]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that tell who holds a file")
@pytest.mark.parametrize("batch", range(4))
def test_a_stage_that_reads_the_old_store_leaves_the_partial_file_of_a_running_extract(photos, batch):
    class Met(Fake):
        def describe(self, paths, batch_size):
            for number, block in enumerate(super().describe(paths, batch_size)):
                assert number != batch or left(STORE)
                yield block

    extract(photos)
    whole = STORE.read_bytes()
    extract(photos, Met())
    assert STORE.read_bytes() == whole


def test_a_photo_that_is_gone_is_named(photos):
    Path(photos[4].image_path).unlink()
    with pytest.raises(InputError, match=r"^photos/NA: gone since the catalog"):
        extract(photos)
    assert not STORE.exists()


def test_a_photo_that_cannot_be_looked_up_is_named_and_not_the_store(photos, monkeypatch):
    stat = Path.stat

    def refusing(path, **kwargs):
        if path.name == "NA":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **kwargs)

    monkeypatch.setattr(Path, "stat", refusing)
    with pytest.raises(InputError, match=r"^photos/NA: .*Permission denied"):
        extract(photos)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("progress_bar", [True, False])
@pytest.mark.parametrize("done", [0, 2])
def test_a_descriptor_that_is_not_finite_is_refused(photos, monkeypatch, bad, progress_bar, done):
    class Broken(Fake):
        def describe(self, paths, batch_size):
            for block in super().describe(paths, batch_size):
                block[block[:, 0] == np.float32(8 / 7), 1] = bad
                yield block

    if not progress_bar:  # as TQDM_DISABLE=1 does
        monkeypatch.setattr(features, "tqdm", functools.partial(features.tqdm, disable=True))
    if done:
        interrupt(photos, done)
    with pytest.raises(InputError, match=r'^photos/q"uote: .*not finite'):
        extract(photos, Broken())
    assert not STORE.exists()


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
    ],
)
@pytest.mark.parametrize("call", ["create_dataset", "__setitem__"])
def test_an_error_of_the_disk_is_one_clear_message(photos, monkeypatch, code, message, call):
    owner = {"create_dataset": h5py.Group, "__setitem__": h5py.Dataset}[call]
    monkeypatch.setattr(owner, call, raising(OSError(code, os.strerror(code))))
    with pytest.raises(InputError, match=rf"features/index\.h5: {message}"):
        extract(photos)
    assert [path.name for path in STORE.parent.iterdir()] == [STORE.name + ".partial"]


def test_other_errors_of_the_system_are_not_disguised(photos, monkeypatch):
    monkeypatch.setattr(h5py.Dataset, "__setitem__", raising(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        extract(photos)


ON_A_FULL_DISK = """
import gc
import subprocess, sys
from pathlib import Path
import numpy as np
from landmarks.searching import features
from landmarks.searching import rankings
from landmarks.photos.catalog import Photo
from landmarks.errors import InputError

class Describer:
    dimensions = 64
    def describe(self, paths, batch_size):
        for start in range(0, len(paths), batch_size):
            yield np.ones((len(paths[start : start + batch_size]), 64), np.float32)

def write_features(path):
    features.extract(path, photos, Describer(), {"model_sha256": "12ab"}, 7)

def write_rankings(path):
    block = rankings.Block(np.ones((100, 64), np.int32), np.ones((100, 64), np.float32))
    rankings.write(path, photos, photos, 64, [block], {})

photos = [Photo(__file__, "class")] * 100
disk, other = Path(sys.argv[1]), Path(sys.argv[2])
for write in (write_features, write_rankings):
    name = write.__name__
    write(other / name)
    outcomes = []
    for size in range(8, 160, 12):
        gc.collect()  # an error may still hold the map of a deleted file, and so its blocks
        subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
        try:
            write(disk / name)
            assert (disk / name).read_bytes() == (other / name).read_bytes(), f"{name}: lost data on {size}k"
            outcomes.append("whole")
            (disk / name).unlink()
        except InputError as error:
            assert "the disk is full" in str(error), error
            assert not (disk / name).exists()
            assert not list(disk.glob(".*")), "left a temporary file"
            outcomes.append("full")
    assert outcomes[0] == "full" and outcomes[-1] == "whole", outcomes
"""


def test_on_a_full_disk_a_store_is_whole_or_absent(tmp_path):
    disk = tmp_path / "disk"
    other = tmp_path / "other"
    for folder in (disk, other):
        folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(ON_A_FULL_DISK)
    mount = f"mount -t tmpfs -o size=8k tmpfs '{disk}'"
    in_namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        again = f"{mount} && mount -o remount,size=9k '{disk}'"
        subprocess.run([*in_namespace, again], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small file system can only be mounted and resized where user namespaces are allowed")
    command = f"{mount} && exec '{sys.executable}' '{script}' '{disk}' '{other}'"
    root = Path(features.__file__).parents[2]
    run = subprocess.run(
        [*in_namespace, command], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr


def write_other_hdf5(path):
    with h5py.File(path, "w") as file:
        file["other"] = [1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "damaged, or no file of landmarks features; to make"),
        (lambda path: path.write_text("features"), "damaged, or no file of"),
        (lambda path: path.mkdir(), "cannot be read \\(Is a directory\\)"),
        (write_other_hdf5, "of version 1 of its format, 2 is read; run `dvc repro`"),
    ],
    ids=["missing", "empty", "text", "folder", "other datasets"],
)
def test_what_is_no_feature_store_is_refused(tmp_path, make, message):
    path = tmp_path / "store.h5"
    make(path)
    with pytest.raises(InputError, match=rf"store\.h5: {message}"), features.opened(path):
        pass


def test_a_store_cut_short_is_refused(photos):
    extract(photos)
    os.truncate(STORE, STORE.stat().st_size // 2)
    with pytest.raises(InputError, match=r"index\.h5: damaged, or no file of"), features.opened(STORE):
        pass


def test_an_error_while_a_store_is_open_is_not_blamed_on_the_store(photos):
    extract(photos)
    with pytest.raises(KeyError, match="mine"), features.opened(STORE):
        raise KeyError("mine")


def test_memory_does_not_grow_with_the_photos(photos, monkeypatch, peak_memory):
    monkeypatch.setattr(features, "BLOCK_BYTES", 1 << 20)
    width = 2048

    class Wide(Fake):
        dimensions = width

        def describe(self, paths, batch_size):
            for start in range(0, len(paths), batch_size):
                yield np.ones((len(paths[start : start + batch_size]), width), np.float32)

    small, large = ([photos[0]] * count for count in (500, 2000))
    base = peak_memory(lambda: extract(small, Wide(), batch_size=32), 0)
    bound = base + int(0.1 * (len(large) - len(small)) * width * 4)
    assert peak_memory(lambda: extract(large, Wide(), batch_size=32), bound) <= bound
