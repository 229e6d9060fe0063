"""What DVC sees of photos behind links, as docs/photos.md says."""

import shutil
from itertools import count
from pathlib import Path

import pytest

from .conftest import Project


@pytest.mark.slow
@pytest.mark.parametrize("linked", ["images", "images/a/1.jpg", "."])
def test_dvc_sees_what_changes_behind_a_link(at_first: Project, tmp_path: Path, make_photo, linked: str):
    new = count(1000 * len(linked))  # or DVC would take from its cache what it made for another link
    data, own, other = at_first.root / "data/mine", tmp_path / "own", tmp_path / "other"
    for name in ("a/0", "a/1", "a/2", "b/3", "b/4"):
        make_photo(data / f"images/{name}.jpg", seed=next(new))
    (data / linked).rename(own)
    (data / linked).symlink_to(own)
    at_first.set(dataset="mine")
    try:
        listed = ("repro", "create_csv")
        assert at_first.stages_run(*listed) == ["create_csv"]
        assert at_first.stages_run(*listed) == []
        behind = own if own.is_file() else next(own.rglob("1.jpg"))
        make_photo(behind, seed=next(new))
        assert at_first.stages_run(*listed) == ["create_csv"]
        if own.is_dir():
            make_photo(behind.with_name("7.jpg"), seed=next(new))
            assert at_first.stages_run(*listed) == ["create_csv"]
            behind.unlink()
            assert at_first.stages_run(*listed) == ["create_csv"]
        (shutil.copytree if own.is_dir() else shutil.copy)(own, other)
        make_photo(next(other.rglob("2.jpg"), other), seed=next(new))
        (data / linked).unlink()
        (data / linked).symlink_to(other)
        assert at_first.stages_run(*listed) == ["create_csv"]

        added = at_first.run("dvc", "add", "data/mine/images", check=False)
        if own.is_dir():
            assert "Cannot add files inside symlinked directories" in added.stderr
        else:
            assert added.returncode == 0
            assert not (data / linked).is_symlink()
            assert (data / linked).read_bytes() == other.read_bytes()
            assert other.stat().st_nlink == 1
    finally:
        data.unlink() if data.is_symlink() else shutil.rmtree(data)
