"""What the benchmarks say where what they measure is not there."""

import ast
import importlib
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from landmarks.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "pipeline.py",
            ".dvc/cache/files: no such folder; run `make repro` first, and commit what it changed",
        ),
        ("rerank.py one", "rankings/retrieved.h5: no such file; `dvc repro` makes it"),
        ("geometric.py photos", "photos: no photos below it; name a folder that has one folder per landmark"),
        ("vlad.py photos", "photos: no photos below it; name a folder that has one folder per landmark"),
    ],
)
def test_what_is_missing_is_a_line(tmp_path, monkeypatch, command, line):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    name, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(os.fspath(ROOT / "benchmarks"))
    with pytest.raises(SystemExit, match=f"^error: {line}$"):
        runpy.run_path(os.fspath(ROOT / "benchmarks" / name), run_name="__main__")


def test_what_a_clone_cannot_do_is_told_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.fspath(ROOT / "benchmarks"))
    do = runpy.run_path(os.fspath(ROOT / "benchmarks/pipeline.py"))["do"]
    with pytest.raises(
        InputError, match=r"^`ls gone` failed in a clone of this .*; run `make repro` (.*\n)+.*gone"
    ):
        do(tmp_path, "ls", "gone")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_the_library_is_there(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("landmarks"):
            for alias in node.names:
                place = importlib.import_module(node.module)
                whole = getattr(place, alias.name, None) or importlib.import_module(
                    f"{node.module}.{alias.name}"
                )
                taken[alias.asname or alias.name] = whole
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in taken:
            assert hasattr(taken[node.value.id], node.attr), f"line {node.lineno}"
