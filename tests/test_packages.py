"""What the packages promise of themselves: that they import fast, and that their public names are there."""

import doctest
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import landmarks

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(
    ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "landmarks").rglob("__init__.py")
)
NAMES = {
    "landmarks": "InputError asking describing photos reranking scoring searching training",
    "landmarks.photos": "Crop Photo read read_photos",
    "landmarks.describing": "Describer Trunk Vlad pretrained",
    "landmarks.training": "Training evaluate",
    "landmarks.searching": "Block Rankings Store top_k",
    "landmarks.reranking": "Reranker",
    "landmarks.scoring": "average_precision score",
    "landmarks.asking": "Answer Index",
}
EXAMPLES = [
    "describing.pooling",
    "training.losses",
    "searching.search",
    "reranking.labels",
    "reranking.query_expansion",
    "reranking.reranker",
    "scoring.measures",
]


def python(code, *arguments, cwd=ROOT, **env):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_package_imports_nothing_when_it_is_imported():
    code = (
        "import sys\nfor name in sys.argv[1:]: __import__(name)\n"
        "slow = {'numpy', 'torch', 'pandas', 'cv2', 'numba'}.intersection(sys.modules)\n"
        "print(sorted(name for name in sys.modules if name.startswith('landmarks')), slow)"
    )
    assert python(code, *PACKAGES) == f"{PACKAGES} set()\n"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_of_a_package_are_there(package):
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert all(getattr(module, name) is not None for name in names)
    stub = Path(module.__file__).with_suffix(".pyi")
    assert set(names) == set(
        re.findall(r" as (\w+)$", stub.read_text() if stub.exists() else "", re.MULTILINE)
    )


def told(package):
    """The names in the first lines of `package`, but for paths."""
    return set(re.findall(r"`(\w+)(?:\.(?!csv)\w+)?`", importlib.import_module(package).__doc__))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_first_lines_of_a_package_tell_names_that_are_there(package):
    rooms = (ROOT / "landmarks", ROOT / package.replace(".", "/"), ROOT / "stages")
    there = {path.stem for room in rooms for path in room.iterdir()}
    assert told(package) <= there.union(getattr(importlib.import_module(package), "__all__", ()))


def test_the_first_lines_of_a_package_tell_what_others_use_of_it():
    imports = re.compile(r"^ *from (landmarks\.\w+)([\w.]*) import (\([^)]+|[^#\n]+)", re.MULTILINE)
    for path in (ROOT / "landmarks").rglob("*/*.py"):
        own = f"landmarks.{path.relative_to(ROOT / 'landmarks').parts[0]}"
        for package, module, names in imports.findall(path.read_text(encoding="utf-8")):
            if package in PACKAGES and package != own:
                used = set(re.findall(r"(?<!as )\b(?!as\b)\w+", names))
                assert {module.removeprefix(".")} <= told(package) or used <= told(package), (path, names)


@pytest.mark.parametrize("package", NAMES)
def test_the_public_names_are_few_and_stay(package):
    module, names = importlib.import_module(package), NAMES[package].split()
    assert sorted(module.__all__) == names
    assert [getattr(module, name).__name__.rpartition(".")[2] for name in names] == names


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_docstrings_are_true(module, monkeypatch):
    monkeypatch.chdir(ROOT)  # for params.yaml
    found = doctest.testmod(importlib.import_module(f"landmarks.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_all_examples_are_tried():
    with_examples = [path for path in (ROOT / "landmarks").rglob("*.py") if ">>> " in path.read_text()]
    names = {".".join(path.relative_to(ROOT / "landmarks").with_suffix("").parts) for path in with_examples}
    assert names == set(EXAMPLES)


@pytest.mark.filterwarnings("ignore")
def test_what_the_documentation_does_from_python_works(built, tmp_path, monkeypatch, capsys):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["castle_keep/018.jpg", "old_bridge/004.jpg"]):
        path = Path("data/demo/images", name)
        path.parent.mkdir(parents=True)
        shutil.copy(f"queries/{number}.png", path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.MULTILINE | re.DOTALL
    )
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("data/demo/images/castle_keep/018.jpg castle {'castle': 3}")
    assert second.startswith("data/demo/images/old_bridge/004.jpg 故宫 {'故宫': 3}")


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_command_that_is_installed_tells_errors_in_a_line():
    module, _, name = PROJECT["scripts"]["landmarks"].partition(":")
    assert (module, getattr(importlib.import_module(module), name).__name__) == (
        "landmarks.asking.cli",
        "main",
    )


PACKED = {
    "cv2": "opencv-contrib-python-headless",
    "PIL": "pillow",
    "ruamel": "ruamel.yaml",
    "sklearn": "scikit-learn",
}
BELOW_FASTAPI = {"anyio", "starlette"}


def test_what_is_imported_is_installed_with_the_library():
    code = [path.read_text() for room in ("landmarks", "stages") for path in (ROOT / room).rglob("*.py")]
    imports = re.findall(r"^ *(?:import (\w+)|from (\w+)[\w.]* import)", "\n".join(code), re.MULTILINE)
    others = {name for pair in imports for name in pair if name} - sys.stdlib_module_names - BELOW_FASTAPI
    wanted = {PACKED.get(name, name).replace("_", "-") for name in others - {"landmarks", "stages"}}
    assert wanted <= {re.split("[<>=]", line)[0] for line in PROJECT["dependencies"]}


USED = """
import sys
from importlib.resources import files
from pathlib import Path
import numpy as np
import landmarks
from landmarks.describing import pretrained
from landmarks.scoring import average_precision
from landmarks.searching import top_k

assert Path(landmarks.__file__).is_relative_to(sys.argv[1]), landmarks.__file__
network = pretrained("test_resnet", "random", image_size=32, layer="avgpool", seed=0)
described = np.vstack(list(network.describe([Path("a.png"), Path("b.png")], batch_size=2)))
_, rows = top_k(described, described, "L1", 2)
print(rows.tolist(), average_precision(rows == 0, np.array([1, 1])).tolist())
page = files("landmarks.asking.serving") / "page"
print(sorted(file.name for file in page.iterdir()), (files("landmarks") / "py.typed").is_file())
"""


def test_a_wheel_describes_searches_and_scores_outside_of_the_repository(tmp_path):
    """Built from a copy, since building writes beside the sources."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "landmarks", tmp_path / "landmarks", ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir")
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("landmarks-*.whl")
    assert wheel.name.startswith(f"landmarks-{landmarks.__version__}-")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        packed = {name for name in archive.namelist() if name.startswith("landmarks/")}
    sources = (
        path.relative_to(ROOT).as_posix() for path in (ROOT / "landmarks").rglob("*") if path.is_file()
    )
    assert packed == {name for name in sources if "__pycache__" not in name}
    for number, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (40, 32), (200 * number, 100, 50)).save(elsewhere / name)
    told = python(USED, str(site), cwd=elsewhere, PYTHONPATH=str(site)).splitlines()
    assert told[0] == "[[0, 1], [1, 0]] [1.0, 0.5]"
    assert (
        told[1] == f"{sorted(file.name for file in (ROOT / 'landmarks/asking/serving/page').iterdir())} True"
    )
