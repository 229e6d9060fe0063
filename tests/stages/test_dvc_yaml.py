"""What `dvc.yaml` declares of the stages, against what their scripts import and read."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
MODELS = ("pretrained", "finetuned", "vlad")

# Files of the ground floor that shape outputs; the others tell errors, show progress and check parameters.
SHAPING = {"hdf5", "tables"}
CHECKED = {"params", "chain"}  # what the stage `check` is for
DIRECT = {"retrieve", "rerank", "evaluate", "gallery"}
"""Stages that import packages over others for their types alone."""
READING = {
    "check": {"tables"},
    "extract": {"tables"},
    "retrieve": {"tables"},
    "rerank": {"tables"},
    "evaluate": {"hdf5"},
    "gallery": {"hdf5", "tables"},
}  # what of those they write nothing by


@cache
def imported(path):
    """The files of the library that the file at `path` imports."""
    files = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("landmarks"):
            parent = ROOT / node.module.replace(".", "/")
            for alias in node.names:
                places = (parent / f"{alias.name}.py", parent.with_suffix(".py"), parent / "__init__.pyi")
                files.add(next(filter(Path.is_file, places), parent / "__init__.py"))
    return files


def rooms(paths):
    """Of the packages and of the files of the ground floor."""
    return {path.relative_to(ROOT / "landmarks").with_suffix("").parts[0] for path in paths}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_packages_that_shape_its_outputs(stage):
    deps = STAGES[stage]["deps"]
    declared = {Path(dep).stem for dep in deps if dep.startswith("landmarks/")}
    script = f"{STAGES[stage]['cmd'].split()[2].replace('.', '/')}.py"
    assert script in deps
    waiting = [ROOT / script.replace("/${model}", f"/{model}") for model in MODELS]
    direct, seen = set().union(*map(imported, waiting)), set()
    while waiting:
        new = imported(waiting.pop()) - seen
        seen |= new
        waiting += new
    ground = {path.stem for path in (ROOT / "landmarks").glob("*.py")}
    shaping = SHAPING - READING.get(stage, set())
    assert rooms(seen) & ground & (CHECKED | shaping if stage == "check" else shaping) <= declared
    assert rooms(direct if stage in DIRECT else seen) - ground <= declared
    assert all(
        Path(ROOT, dep).exists()
        for dep in deps
        if dep.startswith(("landmarks/", "stages/")) and "$" not in dep
    )


def test_a_change_in_a_package_reruns_the_stages_that_are_told():
    """Also those that reach a package through another one, as `gallery` does `reranking`."""
    told = re.findall(r"^  \| `(\w+)/` \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    packages = {path.parent.name for path in (ROOT / "landmarks").glob("*/__init__.py")}
    assert {package for package, _ in told} == packages - {"demo"}
    for package, text in told:
        named = set(re.findall(r"`(\w+)`", text))
        reruns = {stage for stage in STAGES if f"landmarks/{package}" in STAGES[stage]["deps"]}
        assert reruns == (set(STAGES) - named if text.startswith("all stages but") else named), package


def test_the_first_stage_checks_what_dvc_puts_into_commands_and_paths():
    used = re.findall(r"\$\{(\w+)\}", (ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert set(used) == set(STAGES["check"]["params"])
