"""What killed stages leave beside their outputs, and which later stages remove it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from landmarks import files, hdf5, tables
from landmarks.asking import Index
from landmarks.errors import InputError
from landmarks.searching import features
from stages import evaluate, extract, rerank, retrieve

from .inprocess import stages

WRITING = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from landmarks import files, hdf5

with ExitStack() as stack:
    for name in ("data/catalog.csv", "data/splits/test.csv", "models/model.safetensors",
                 "models/checkpoints/0a/last.pt", "reports/metrics.json"):
        stack.enter_context(files.replacing(Path(name))).write_bytes(bytes(100))
    for name in ("features/index.h5", "rankings/retrieved.h5"):
        stack.enter_context(hdf5.writing(Path(name), "test"))
    (stack.enter_context(files.filling(Path("data/mine/images"))) / "castle").mkdir()
    print(flush=True)
    time.sleep(60)
"""
KINDS = [
    *("data/catalog.csv", "data/splits/test.csv", "data/mine/images", "features/index.h5"),
    *("models/checkpoints/0a/last.pt", "models/model.safetensors", "rankings/retrieved.h5"),
    "reports/metrics.json",
]
unix = pytest.mark.skipif(sys.platform == "win32", reason="a file that is open is not deleted there")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def temporary(path):
    return Path(path).with_name(f".{Path(path).name}.tmp")


def lying():
    return sorted(str(path) for path in Path().rglob(".*.tmp"))


def leave(*paths):
    """Outputs that the cache has restored, with a temporary beside each of them."""
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"whole")
        temporary(path).write_bytes(b"half")


@unix
def test_what_a_killed_stage_left_is_removed_and_what_a_running_one_writes_is_not():
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    writer = subprocess.Popen([sys.executable, "-c", WRITING], stdout=subprocess.PIPE, env=env)
    assert writer.stdout.readline()
    for path in KINDS[:-1]:  # that the cache restores, when parameters go back to what they were
        Path(path).mkdir() if path.endswith("images") else Path(path).write_bytes(b"whole")
    left = sorted(str(temporary(path)) for path in KINDS)
    files.sweep()
    assert lying() == left

    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert lying() == left
    files.sweep()
    assert lying() == [str(temporary(KINDS[-1]))]  # whose stage has to run, and replaces it
    Path(KINDS[-1]).touch()
    files.sweep()
    assert lying() == []
    assert all(Path(path).exists() for path in KINDS)


@unix
@pytest.mark.parametrize("model", ["pretrained", "finetuned", "vlad"])
def test_what_is_left_beside_any_output_that_is_declared_is_removed(model):
    leave(*(out for stage in stages(model, "mine") for out in stage.outs))
    assert len(lying()) > 20
    files.sweep()
    assert lying() == []


@unix
@pytest.mark.parametrize("name", ["a.csv", "b.h5", "故宫.json"])
def test_the_stage_that_writes_the_output_needs_no_sweep(name):
    leave(f"rankings/{name}")
    with files.replacing(Path("rankings", name)) as path:
        assert path == temporary(f"rankings/{name}")
        path.write_bytes(b"new")
        files.sweep()
        assert path.read_bytes() == b"new"
    assert [path.name for path in Path("rankings").iterdir()] == [name]
    assert Path("rankings", name).read_bytes() == b"new"


@unix
@pytest.mark.parametrize("write", [files.replacing, files.filling])
def test_what_is_written_is_held_until_it_has_its_name(monkeypatch, write):
    def late(call):
        return lambda path, target: files.sweep() or call(path, target)

    for name in ("replace", "rename"):
        monkeypatch.setattr(Path, name, late(getattr(Path, name)))
    for content in ("old", "new"):
        with write(Path("reports/gallery")) as path:
            (path / "page" if path.is_dir() else path).write_text(content)
    made = Path("reports/gallery")
    assert (made / "page" if made.is_dir() else made).read_text() == "new"
    assert lying() == []


@unix
def test_a_writer_that_meets_a_sweep_makes_its_file_again(monkeypatch):
    flock, swept = files.fcntl.flock, []

    def late(lock, operation):
        if not swept:
            swept.append(temporary("rankings/a.h5").unlink())
        flock(lock, operation)

    monkeypatch.setattr(files.fcntl, "flock", late)
    leave("rankings/a.h5")
    with files.replacing(Path("rankings/a.h5")) as path:
        files.sweep()
        path.write_bytes(b"new")
        files.sweep()
    assert swept == [None]
    assert Path("rankings/a.h5").read_bytes() == b"new"


@unix
def test_a_sweep_that_is_overtaken_by_two_writers_removes_nothing(monkeypatch):
    """The first one renames what the sweep has opened, the second one begins anew."""
    flock = files.fcntl.flock

    def late(lock, operation):
        temporary("rankings/a.h5").rename("rankings/a.h5")
        temporary("rankings/a.h5").write_bytes(b"second")
        flock(lock, operation)

    leave("rankings/a.h5")
    monkeypatch.setattr(files.fcntl, "flock", late)
    files.sweep()
    assert temporary("rankings/a.h5").read_bytes() == b"second"


@unix
def test_what_users_keep_beside_their_photos_is_no_left_over():
    leave("data/mine/notes.txt", "data/mine/images.csv")
    kept = lying()
    files.sweep()
    assert kept[-1].endswith("notes.txt.tmp")
    assert lying() == kept


@unix
@pytest.mark.parametrize("output", ["data/demo/images", "reports/gallery", "features/故宫"])
def test_a_folder_that_another_one_replaced_is_removed_once_the_other_is_there(output):
    folder = Path(output)
    old = folder.with_name(f".{folder.name}.old.tmp")
    (old / "castle").mkdir(parents=True)
    files.sweep()
    assert old.exists()  # which the next run puts back
    folder.mkdir()
    files.sweep()
    assert lying() == []


def no_locks(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return SimpleNamespace(flock=refuse, LOCK_SH=1, LOCK_EX=2, LOCK_NB=4)


@pytest.mark.parametrize(
    "locks",
    [None, *map(no_locks, (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF))],
    ids=["Windows", "ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EBADF"],
)
def test_where_there_are_no_locks_files_are_written_and_nothing_is_removed(monkeypatch, locks):
    monkeypatch.setattr(files, "fcntl", locks)
    leave("features/index.h5", "reports/plots/classes.csv")
    left = lying()
    tables.write(Path("reports/results.csv"), ["a", "b"], [("1", "2")])
    files.sweep()
    assert lying() == left
    assert Path("reports/results.csv").read_text() == "a,b\n1,2\n"


@unix
@pytest.mark.parametrize(
    ("call", "number"), [("open", errno.EACCES), ("open", errno.EROFS), ("unlink", errno.EPERM)]
)
def test_in_a_folder_that_is_only_read_nothing_is_said_and_nothing_removed(
    monkeypatch, capsys, caplog, call, number
):
    leave("features/index.h5")

    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        files.sweep()
    assert Path("features/.index.h5.tmp").exists()
    assert (capsys.readouterr(), caplog.records) == (("", ""), [])


@unix
def test_links_and_pipes_and_what_has_no_output_are_left_alone(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/photo").touch()
    Path("rankings").mkdir()
    for name in ("a", "b", "c"):
        Path("rankings", name).touch()
    Path("rankings/.a.tmp").symlink_to(tmp_path / "own")
    Path("rankings/.b.tmp").symlink_to(tmp_path / "own/photo")
    Path("rankings/.d.tmp").touch()
    Path("rankings/c.tmp").touch()
    before = sorted(Path("rankings").iterdir())
    files.sweep()
    assert sorted(Path("rankings").iterdir()) == before
    assert (tmp_path / "own/photo").exists()


@pytest.fixture
def described(built, root):
    """The built repository, in which the first of the index are queries, too, and nothing is left over."""
    for name in ("params.yaml", "models", "features", "data"):
        copy = shutil.copytree if (built / name).is_dir() else shutil.copy2
        copy(built / name, root / name)
    index, test = (root / "features" / f"{part}.h5" for part in ("index", "test"))
    with features.opened(index) as store, hdf5.writing(test, features.KIND) as file:
        features._write(file, store.features[:4], store.photos[:4], store.attributes)
    retrieve.main()
    return root


def partial(part, batch_size):
    path = Path("features", f"{part}.h5")
    with features.opened(path) as store:
        key = features._fingerprint(store.photos, store.attributes, batch_size)
        held = store.features[:2].tobytes()
    path.with_name(f"{path.name}.partial").write_bytes(key.encode() + held)


@unix
@pytest.mark.parametrize(("held", "left"), [("index", "test"), ("test", "index")])
@pytest.mark.parametrize("stage", [retrieve, rerank])
def test_a_stage_that_reads_features_removes_what_they_hold_and_nothing_else(described, stage, held, left):
    options = yaml.safe_load(Path("params.yaml").read_text())
    partial(held, options["extract"]["batch_size"])
    partial(left, 64)
    stage.main()
    names = {path.name for path in Path("features").iterdir()}
    assert names == {"index.h5", "test.h5", f"{left}.h5.partial"}


@unix
@pytest.mark.parametrize("stage", [extract, retrieve, rerank, evaluate])
def test_these_stages_sweep_even_where_they_then_fail(described, monkeypatch, stage):
    leave("data/catalog.csv", "rankings/reranked.h5", "reports/training.csv")
    monkeypatch.setattr(sys, "argv", ["extract", "index"])
    with suppress(InputError):
        stage.main()
    assert lying() == []


def test_who_only_asks_removes_nothing(described):
    leave("data/catalog.csv", "reports/results.csv")
    temporary("features/index.h5").touch()
    partial("index", 2)
    left = lying()
    index = Index.open(described)
    assert index.answer(index.describe([described / index.photos[0].image_path]))
    assert lying() == left
    assert Path("features/index.h5.partial").exists()
