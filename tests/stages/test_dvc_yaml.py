"""What `dvc.yaml` declares of the stages, against what their scripts import and read."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from landmarks import params

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
