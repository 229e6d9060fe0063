"""What `dvc.yaml` declares of the stages, against what their scripts import and read."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from landmarks import params

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


NOT_SHAPING = {"extract": {"split"}, "model": {"dataset"}}  # in an error, and in names of event files
PARAMS = params.load(ROOT / "params.yaml")


def chain(node):
    """The names of `a.b.c`, and of `a.b().c` the names `a.b` and `c`."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Call):
        names.insert(0, ".".join(chain(node.func)))
    return [node.id, *names] if isinstance(node, ast.Name) else names


def parameters(path):
    """What the script at `path` reads of `params.load()`: `split.method`, or `split` where that is whole."""
    text = path.read_text(encoding="utf-8")
    options = re.findall(r"options = params\.load\(\)\.(\w+)", text)  # a section, or else all
    nodes = list(ast.walk(ast.parse(text)))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        first, *names = chain(node) if isinstance(node, ast.Attribute) and id(node) not in inner else [""]
        if first not in ("params.load", "options"):
            continue
        names = [*options, *names] if first == "options" else names
        section, read = PARAMS, []
        for name in names:
            value = getattr(section, name)
            if callable(value):  # a part of the section
                yield from (".".join([*read, key]) for key in type(section).model_fields.keys() & value())
                break
            section = value
            read.append(name)
        else:
            yield ".".join(read)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_parameters_that_it_reads(stage, model):
    declared = {name.replace("${model}", model) for name in STAGES[stage].get("params", [])}
    module = STAGES[stage]["cmd"].split()[2].replace("${model}", model)
    read = set(parameters(ROOT / f"{module.replace('.', '/')}.py"))
    assert read
    known = declared | NOT_SHAPING.get(stage, set())
    assert {name for name in read if not {name, name.partition(".")[0]} & known} == set()
