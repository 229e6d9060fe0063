"""What keeps the repository in order says the same everywhere: checks, hooks, versions, spelling."""

import ast
import re
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import yaml

import landmarks

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT = tomllib.loads(read("pyproject.toml"))


def checks() -> list[str]:
    """The commands of `make check`, without where they lie."""
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    assert recipe
    lines = [re.sub(r'"\$\$BIN/([\w-]+)"', r"\1", line.strip()) for line in recipe[1].splitlines()]
    return [line.removeprefix("git ls-files -z | xargs -0 ") for line in lines]


def test_hooks_run_what_make_check_runs_and_fetch_nothing():
    repos = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    hooks = repos[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    entries = [hook["entry"] for hook in hooks]
    assert [command for command in checks() if "--platform" not in command] == entries
    *whole, spelling = hooks  # a change in one file may break another, but in spelling
    assert all(hook["pass_filenames"] is False for hook in whole)
    assert all({"python", "pyi", "toml"} <= set(hook["types_or"]) for hook in whole)
    assert spelling["types"] == ["text"]


def test_types_are_checked_for_other_systems_too():
    assert re.findall(r"--platform (\w+)", " ".join(checks())) == ["darwin", "win32"]


def test_import_linter_lets_nothing_out_of_the_order_that_is_told():
    order, private = PROJECT["tool"]["importlinter"]["contracts"]
    assert (order["type"], order["exhaustive"], private["type"]) == ("layers", True, "private_modules")
    assert not order.keys() & {"ignore_imports", "exhaustive_ignores"}
    assert private.keys() == {"name", "type"}
    names = [name for layer in reversed(order["layers"]) for name in layer.split(" | ")]
    told = re.search(r"order in which data flows: ([^.]*?), and", " ".join(read("CONTRIBUTING.md").split()))
    for text in (landmarks.__doc__, told[1]):
        packages = re.findall(r"`(\w+)`", text)
        assert [name for name in names if name in packages] == packages


def test_the_workflow_checks_and_tests_on_the_oldest_python_and_a_newer_one():
    job = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make check", "make test"]
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    versions = [tuple(map(int, version.split("."))) for version in job["strategy"]["matrix"]["python"]]
    assert versions[0] == tuple(map(int, oldest.split("."))) < versions[-1]


def test_a_test_that_hangs_is_ended(pytestconfig):
    assert 0 < float(pytestconfig.getini("timeout")) < 600


def test_the_changelog_and_the_citation_are_of_this_version():
    released = re.findall(r"^## \[(\d.*)\] - (\S+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert released[0][0] == landmarks.__version__
    days = [date.fromisoformat(day) for _, day in released]
    assert days == sorted(days, reverse=True)
    citation = yaml.safe_load(read("CITATION.cff"))
    assert (citation["version"], citation["date-released"]) == (landmarks.__version__, days[0])


def test_mistypings_are_found_and_what_is_meant_is_not(tmp_path):
    mistyped = {".github/x.yml": "hte", "README.zh.md": "收到 teh", "x/x.md": "wich"}  # codespell:ignore
    meant = {"x.md": "cafe\u0301", "dvc.lock": "teh", ".dvc/plots.html": "wich"}  # codespell:ignore
    for name, text in {**mistyped, **meant, "pyproject.toml": read("pyproject.toml")}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", *mistyped, *meant]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = [line.partition(":")[0].removeprefix("./") for line in done.stdout.splitlines()]
    assert sorted(found) == sorted(mistyped)


def test_git_ignores_what_is_made_and_keeps_what_is_not():
    outs = [
        out for stage in yaml.safe_load(read("dvc.yaml"))["stages"].values() for out in stage.get("outs", [])
    ]
    made = [out.replace("${item.part}", "test") for out in outs]
    made += ["data/paris/images/abbey/1.jpg", "features/test.h5.partial", "models/checkpoints/0a/best.pt"]
    made += ["downloads/paris_1-v1.tgz", "runs/2026/events", "dvc_plots/index.html", "landmarks.egg-info/x"]
    kept = [
        "data/paris/ground_truth.csv",
        "data/paris/images.dvc",
        "models/own.pth.dvc",
        "reports/metrics.json",
    ]
    kept += ["data/README.md", "recipes/paris.yaml", "landmarks/photos/images.py"]
    kept += [f"{folder}/.gitignore" for folder in ("data", "models", "features", "rankings", "reports")]
    command = ["git", "check-ignore", "--no-index", *made, *kept]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == made


def test_no_file_is_unpickled_that_may_run_something():
    """Torch reads weights-only, NumPy no objects, and pickles are read by a subclass that finds no class."""
    seen, loads = set(), 0
    for path in [path for room in ("landmarks", "stages") for path in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {f"{getattr(node, 'module', '')}.{alias.name}".strip(".") for alias in node.names}
                seen |= {
                    (path.stem, name) for name in names if re.match("pickle|dill|joblib|shelve|mars", name)
                }
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert not called.startswith("pickle."), path
                assert given.get("allow_pickle", "False") == "False", path
                if called == "torch.load":
                    assert given["weights_only"] == "True", path
                    loads += 1
    allowed = {("checkpoints", "pickle.UnpicklingError"), ("weights", "pickle.UnpicklingError")}
    assert seen == allowed | {("ground_truth", "pickle")}
    assert loads > 1
