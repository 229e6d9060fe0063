"""A copy of this repository with small parameters, in which `dvc` runs for real."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    root: Path
    env: dict[str, str]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True)
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def dvc(self, *arguments: str) -> str:
        return self.run("dvc", *arguments).stdout

    def stages_run(self, *arguments: str) -> list[str]:
        """Run `dvc` and name the stages whose commands it ran."""
        return re.findall(r"^Running stage '(.*)':", self.dvc(*arguments), re.MULTILINE)

    def set(self, **values: object) -> None:
        """Change `params.yaml`; `section__name=value` for a parameter in a section."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for name, value in values.items():
            *parents, key = name.split("__")
            section = params
            for parent in parents:
                section = section[parent]
            section[key] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))


def copy_of_repository(folder: Path) -> Project:
    names = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "LANDMARKS_STATE": "",
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"),
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.com",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.com",
    }
    project = Project(folder, env)
    project.run("git", "init", "--quiet")
    return project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The pipeline after `dvc repro` on a hundred small drawn photos, all committed."""
    project = copy_of_repository(tmp_path_factory.mktemp("project"))
    project.set(
        model="pretrained",
        demo__photos=10,
        pretrained__image_size=96,
        extract__engine="torch",  # which need not be converted to
        gallery__queries=2,
    )
    project.dvc("repro")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "First results")
    return project


@pytest.fixture
def at_first(project: Project) -> Iterator[Project]:
    """The project as committed, before and after the test."""
    yield project
    project.run("git", "checkout", "--quiet", "--", ".")
    project.dvc("checkout", "--quiet")
