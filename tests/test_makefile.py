"""`make` where the repository or the environment lie below paths with spaces, with a Python that is none."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Makes an environment whose commands write down with what they were called.
PYTHON = """#!/bin/sh
[ "$1" = -m ] || exit 0
mkdir -p "$3/bin"
for command in landmarks dvc pytest pip python ruff mypy uv; do
    printf '#!/bin/sh\\necho %s "$@" "|$PATH" >> "%s"\\n[ %s != "$FAILS" ]\\n' $command "$LOG" $command \\
        > "$3/bin/$command"
    chmod +x "$3/bin/$command"
done
"""

# Without what `make test` itself exports, by which a `make` below it says more.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("VENV", "MAKELEVEL", "MAKEFLAGS", "MFLAGS")
}

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@pytest.fixture
def run(tmp_path):
    """Run `make` in a repository of that name.

    Returns the commands that it ran, where these look first for others, the environment, and what was said.
    """

    def make(folder, environment, *targets, fails=""):
        root, log = tmp_path / folder, tmp_path / "log"
        root.mkdir(exist_ok=True)
        for name in ("Makefile", "requirements.txt", "pyproject.toml"):
            if not (root / name).exists():
                shutil.copy2(ROOT / name, root / name)
        python = tmp_path / "a python" / "python3"
        python.parent.mkdir(exist_ok=True)
        python.write_text(PYTHON)
        python.chmod(0o755)
        arguments = [f"PYTHON={python}"]
        venv = root / ".venv"
        if environment:
            outside = environment.startswith("/")
            environment = f"{tmp_path}{environment}" if outside else environment
            venv = root / environment
            arguments.append(f"VENV={environment}")
        env = {**ENVIRONMENT, "LOG": str(log), "FAILS": fails}
        log.unlink(missing_ok=True)
        done = subprocess.run(
            ["make", *arguments, *targets], cwd=root, env=env, capture_output=True, text=True
        )
        assert bool(done.returncode) == bool(fails), done.stderr
        called = [line.split(" |") for line in log.read_text().splitlines()]
        paths = {path.partition(":")[0] for _, path in called}
        return [command for command, _ in called], paths, venv, done.stdout

    return make


@pytest.mark.parametrize(
    ("folder", "environment"),
    [
        ("repository", None),
        ("my  repository", None),
        ("$tudio (2)", None),
        ("it's", "env"),
        ("ngôi nhà", "an env"),
        ("repository", "a  b/c d"),
        ("repository", "/a b/env"),
        ("my repository", "/it's (mine)/env"),
        ("my repository", "../nhà của/env"),
    ],
)
def test_the_environment_lies_where_it_is_wanted_and_is_made_once(run, folder, environment):
    called, paths, venv, _ = run(folder, environment, "repro", "test")
    assert called == [
        "pip install --requirement requirements.txt",
        "pip install --no-deps --no-build-isolation --editable .",
        "landmarks check",
        "dvc repro",
        "landmarks summary",
        "pytest",
    ]
    assert [os.path.normpath(path) for path in paths] == [os.path.normpath(venv / "bin")]
    assert (venv / ".installed").exists()
    assert run(folder, environment, "test")[0] == ["pytest"]


def test_the_slow_tests_are_those_that_are_marked(run):
    assert run("repository", None, "test-slow")[0][-1] == "pytest -m slow"


def test_a_new_requirement_is_installed(run, tmp_path):
    run("my repository", "an env", "test")
    for name in ("requirements.txt", "pyproject.toml"):
        later = time.time() + 1  # than the environment, on file systems that round, too
        os.utime(tmp_path / "my repository" / name, (later, later))
        assert len(run("my repository", "an env", "test")[0]) == 3


@pytest.mark.parametrize("environment", [None, "/a b/env", "/it's (mine)/env", "nhà/env"])
def test_what_it_says_to_source_is_the_environment(run, tmp_path, environment):
    _, _, venv, said = run("my repository", environment, "repro")
    source = said.splitlines()[-1].partition("Before these: source ")[2]
    shown = subprocess.check_output(["sh", "-c", f"printf %s {source}"], cwd=tmp_path / "my repository")
    assert (tmp_path / "my repository" / os.fsdecode(shown)).parent == venv / "bin"


@pytest.mark.parametrize("fails", ["landmarks", "dvc"])
def test_nothing_is_summed_up_after_what_failed(run, fails):
    called = run("repository", None, "repro", fails=fails)[0]
    assert called[2:] == ["landmarks check", "dvc repro"][: 1 + (fails == "dvc")]


@pytest.mark.parametrize(("content", "runs"), [(None, True), ("schema: '2.0'\n", True), ("", False)])
def test_an_empty_lock_is_told_before_anything_runs(tmp_path, content, runs):
    shutil.copy2(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/.installed").touch()
    for name in ("landmarks", "dvc"):
        command = tmp_path / ".venv/bin" / name
        command.write_text(f"#!/bin/sh\necho {name} runs\n")
        command.chmod(0o755)
    if content is not None:
        (tmp_path / "dvc.lock").write_text(content)
    done = subprocess.run(["make", "repro"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert ("dvc runs" in done.stdout) == (done.returncode == 0) == runs
    assert ("run git checkout dvc.lock" in done.stderr) != runs
