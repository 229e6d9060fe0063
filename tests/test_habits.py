"""What keeps the repository in order says the same everywhere: checks, hooks, versions, spelling."""

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


def test_the_workflow_checks_and_tests_on_the_oldest_python_and_a_newer_one():
    job = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make check", "make test"]
    oldest = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    versions = [tuple(map(int, version.split("."))) for version in job["strategy"]["matrix"]["python"]]
    assert versions[0] == tuple(map(int, oldest.split("."))) < versions[-1]


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
