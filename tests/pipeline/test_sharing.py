"""Another clone: the folders that it starts with, and results that the first one pushed."""

from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import Project

FOLDERS = ["data", "features", "models", "rankings", "reports"]


@pytest.fixture
def clone(at_first: Project, tmp_path: Path) -> Project:
    """A clone of the project, which has a remote that holds its outputs."""
    at_first.dvc("remote", "add", "--default", "shared", str(tmp_path / "remote"))
    at_first.run("git", "commit", "--quiet", "--message", "Name the remote", ".dvc/config")
    at_first.dvc("push")
    root = tmp_path / "clone"
    at_first.run("git", "clone", "--quiet", ".", str(root))
    at_first.run("git", "reset", "--quiet", "--hard", "HEAD~1")
    env = {**at_first.env, "PYTHONPATH": str(root), "DVC_SITE_CACHE_DIR": str(root / ".dvc/tmp/site")}
    return replace(at_first, root=root, env=env)


def test_a_clone_has_its_folders_pulls_what_was_pushed_and_runs_nothing(
    at_first: Project, clone: Project, make_photo
):
    held = {path.parent.name for path in clone.root.glob("*/.gitignore")}
    assert held - {".dvc"} == set(FOLDERS)
    assert "<dataset>/images/<landmark>/" in (clone.root / "data/README.md").read_text(encoding="utf-8")

    clone.dvc("pull")
    assert "up to date" in clone.dvc("status")
    assert clone.stages_run("repro") == []
    outs = [path for folder in FOLDERS for path in (at_first.root / folder).rglob("*") if path.is_file()]
    assert {"images", "splits", "features", "models", "rankings", "plots"} <= {
        name for path in outs for name in path.relative_to(at_first.root).parts
    }
    for path in outs:
        assert (clone.root / path.relative_to(at_first.root)).read_bytes() == path.read_bytes(), path

    # What DVC is given later it does not list in a .gitignore, and what Git is to keep is not ignored.
    for name in ("a/1.jpg", "b/2.jpg", "故宫/3.jpg"):
        make_photo(clone.root / "data/mine/images" / name, seed=ord(name[0]))
    (clone.root / "data/mine/ground_truth.csv").write_text("")
    (clone.root / "models/first.safetensors").write_bytes(b"")
    assert clone.stages_run("repro", "--force", "--single-item", "split") == ["split"]
    clone.dvc("add", "data/mine/images", "models/first.safetensors")
    changed = clone.run("git", "status", "--porcelain", "--untracked-files=all").stdout.splitlines()
    assert changed == [
        "?? data/mine/ground_truth.csv",
        "?? data/mine/images.dvc",
        "?? models/first.safetensors.dvc",
    ]
