"""What `dvc.yaml` declares of the stages, against what their scripts import."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
MODELS = ("pretrained", "finetuned", "vlad")

# Shape no output: how errors are told, files written, loops compiled, progress shown and parameters checked.
PLUMBING = {"compiling", "cores", "errors", "fetching", "files", "params", "progress", "rerankers/chain"}
CHECKED = {"params", "rerankers/chain"}  # what the stage `check` is for
CONVERTING = {"images", "tiffs"}  # by which published ground truth is made, and boxes are typed
DIRECT = {"retrieve", "rerank", "evaluate", "gallery"}
"""Stages that import much over others for its types alone."""


def imported(path):
    """The files of the library that the file at `path` imports, as `rerankers/chain`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("landmarks"):
            parent = node.module.replace(".", "/")
            for alias in node.names:
                name = f"{parent}/{alias.name}"
                yield (name if (ROOT / f"{name}.py").is_file() else parent).removeprefix("landmarks/")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_library_files_that_shape_its_outputs(stage):
    deps = STAGES[stage]["deps"]
    declared = {dep.removeprefix("landmarks/").removesuffix(".py") for dep in deps}
    scripts = [dep.replace("${model}", model) for dep in deps for model in MODELS if "stages/" in dep]
    waiting = [ROOT / name for name in scripts] + [ROOT / "landmarks/images.py"] * ("images" in declared)
    needed = set()
    while waiting:
        new = set(imported(waiting.pop())) - needed
        needed |= new
        if stage not in DIRECT:
            waiting += [ROOT / f"landmarks/{name}.py" for name in new]
    needed -= PLUMBING - (CHECKED if stage == "check" else set())
    needed -= CONVERTING if stage == "split" else set()
    assert {name for name in needed if not declared & {name, name.partition("/")[0]}} == set()
