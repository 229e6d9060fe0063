"""What `dvc.yaml` declares of the stages, against what their scripts import."""

import ast
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
"""Stages that import much over others for its types alone."""
READING = {
    "check": {"tables"},
    "extract": {"tables"},
    "evaluate": {"hdf5"},
    "gallery": {"hdf5", "tables"},
}  # what of those they write nothing by


def imported(path):
    """The files of the library that the file at `path` imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("landmarks"):
            parent = ROOT / node.module.replace(".", "/")
            for alias in node.names:
                files = (parent / f"{alias.name}.py", parent.with_suffix(".py"), parent / "__init__.pyi")
                yield next(filter(Path.is_file, files), parent / "__init__.py")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_packages_that_shape_its_outputs(stage):
    deps = STAGES[stage]["deps"]
    declared = {Path(dep).stem for dep in deps if dep.startswith("landmarks/")}
    waiting = [ROOT / dep.replace("${model}", model) for dep in deps for model in MODELS if "stages/" in dep]
    seen = set()
    while waiting:
        new = set(imported(waiting.pop())) - seen
        seen |= new
        if stage not in DIRECT:
            waiting += new
    needed = {path.relative_to(ROOT / "landmarks").with_suffix("").parts[0] for path in seen}
    ground = {path.stem for path in (ROOT / "landmarks").glob("*.py")}
    shaping = SHAPING - READING.get(stage, set())
    assert needed & ground & (CHECKED | shaping if stage == "check" else shaping) <= declared
    assert needed - ground <= declared
    assert all(
        Path(ROOT, dep).exists()
        for dep in deps
        if dep.startswith(("landmarks/", "stages/")) and "$" not in dep
    )
