"""What `dvc.yaml` declares of the stages, against what their scripts import and read."""

import ast
import re
from functools import cache
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


NOT_SHAPING = {
    "extract": {"split"},  # in an error
    "model": {"dataset"},  # in names of event files
    "retrieve": {"extract"},  # to know left-overs by
    "rerank": {"extract"},
}
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


def test_the_first_stage_checks_what_dvc_puts_into_commands_and_paths():
    used = re.findall(r"\$\{(\w+)\}", (ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert set(used) == set(STAGES["check"]["params"])
