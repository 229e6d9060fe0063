"""The stages and commands where there is neither Linux nor a folder to write to but the repository."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from numba.core.caching import FunctionCache
from PIL import Image

from landmarks.compiling import compiled

ROOT = Path(__file__).parents[1]

# Takes away what macOS or Windows lacks, and like Windows renames and deletes no file that is still open.
# Then runs the modules and commands that the lines of stdin name.
BARE = """
import os, runpy, shlex, signal, sys
from pathlib import Path

for module, names in {
    os: "sched_getaffinity process_cpu_count getuid geteuid getgid mkfifo killpg getpgid setsid nice statvfs "
        "getloadavg posix_fadvise posix_fallocate pread pwrite sendfile memfd_create copy_file_range chown",
    signal: "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGQUIT alarm setitimer",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in "fcntl resource pwd grp termios syslog pty tty".split():
    sys.modules[name] = None

def in_use(path):
    open_files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    mapped = Path("/proc/self/maps").read_text()
    return os.path.isfile(path) and (os.path.abspath(path) in open_files or os.path.abspath(path) in mapped)

def as_on_windows(name):
    does = getattr(os, name)
    def checked(*paths, **options):
        for path in paths:
            if Path("/proc/self/maps").exists() and in_use(path):
                raise PermissionError(13, "The process cannot access the file because it is in use", path)
        return does(*paths, **options)
    setattr(os, name, checked)

for name in ("unlink", "remove", "rename", "replace"):
    as_on_windows(name)

for line in sys.stdin.read().splitlines():
    module, *sys.argv[1:] = shlex.split(line)
    print("::", line, flush=True)
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as exit:
        if exit.code:
            raise
assert not [name for name in sys.modules if name == "dvc"]
"""


@pytest.fixture
def project(tmp_path):
    rng = np.random.default_rng(0)
    for landmark in ("castle", "故宫"):
        squares = rng.integers(0, 256, (12, 16, 3), np.uint8)
        for number in range(5):
            path = tmp_path / f"data/mine/images/{landmark}/{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(squares).resize((160, 120), Image.Resampling.NEAREST)
            image.save(path, quality=50 + 10 * number)
    options = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    options.update(dataset="mine", model="vlad", rerank="dba+aqe+two")
    options["vlad"].update(words=4, training_descriptors=1000)
    options["split"].update(train=0.4, val=0, test=0.4, index=0.2)
    options["evaluate"]["bootstrap"] = 10
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(options))
    return tmp_path


@pytest.fixture
def installed(tmp_path):
    """A copy of the code in which nothing can be cached, which permissions would not keep root from."""
    folder = tmp_path / "installed"
    for package in ("landmarks", "stages"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for package in [folder, *folder.rglob("*/")]:
        (package / "__pycache__").touch()
    return folder


SERVING = (
    "from landmarks.asking import Index; from landmarks.asking.serving.server import create_app; "
    "create_app(Index.open())"
)
COMMANDS = """\
stages.check
stages.create_csv
stages.split
stages.model.vlad
stages.extract index
stages.extract test
stages.retrieve
stages.rerank
stages.evaluate
stages.gallery
landmarks --help
landmarks predict data/mine/images/castle
landmarks query data/mine/images/castle/0.jpg --rerank two --out answers
landmarks time --photos 1 --queries 1
served
"""
COMPILING = """
import numpy as np
from landmarks.searching import _kernels

found, keys = np.array([[2, 1]], np.float32), np.zeros((1, 2), np.uint64)
_kernels.keep_all(found, 0, keys)
assert (keys.argsort() == [[1, 0]]).all()
"""


def python(code, project, installed, stdin="", **env):
    home = project / "home"
    home.write_text("not a folder")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    env = {**inherited, "HOME": str(home), "PYTHONPATH": str(installed), **env}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=env, input=stdin, capture_output=True, text=True
    )


def test_stages_and_commands_need_no_linux_and_no_home(project, installed):
    (project / "served.py").write_text(SERVING)
    # Compiling takes seconds.
    done = python(BARE, project, installed, COMMANDS, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("::") == COMMANDS.count("\n")
    assert (project / "reports/gallery/index.html").exists()
    assert (project / "answers/results.csv").exists()


def test_the_inner_loops_are_compiled_where_nothing_can_be_kept(project, installed):
    done = python(COMPILING, project, installed)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_compiled_is_kept_where_a_folder_is_named(project, installed, tmp_path):
    cache = tmp_path / "cache"
    done = python(COMPILING, project, installed, NUMBA_CACHE_DIR=str(cache))
    assert (done.returncode, done.stderr) == (0, "")
    assert [file.name.split("-")[0] for file in cache.rglob("*.nbi")] == ["_kernels.keep_all"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("load_overload", errno.EACCES),
        ("load_overload", errno.ESTALE),
        ("save_overload", errno.ENOSPC),
        ("save_overload", errno.EDQUOT),
    ],
)
def test_a_cache_that_fails_later_does_no_harm(monkeypatch, name, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FunctionCache, name, fail)

    @compiled()
    def double(numbers):
        for place in range(len(numbers)):
            numbers[place] *= 2

    for numbers in (np.array([1, 2]), np.array([1.5])):
        expected = numbers * 2
        double(numbers)
        np.testing.assert_array_equal(numbers, expected)
