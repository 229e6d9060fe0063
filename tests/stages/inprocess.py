"""The stages that `dvc.yaml` declares, run in this process, which imports once what is slow to import."""

import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml
from PIL import Image

from landmarks import params
from landmarks.photos import ground_truth

ROOT = Path(__file__).parents[2]
CODE = ("stages/", "landmarks/")
SMALL = {
    "dataset": "mine",
    "demo": {"classes": 1, "photos": 1},
    "pretrained": {"image_size": 64},
    "finetuned": {"image_size": 64, "train_size": 32, "epochs": 1},
    "vlad": {"words": 2, "max_side": 96, "kmeans_iterations": 2, "training_descriptors": 500},
    "extract": {"engine": "torch", "whitening": "pca", "dimensions": 2},
    "evaluate": {"bootstrap": 2},
    "gallery": {"queries": 1, "results": 2, "matches": True},
    "rerank_options": {"shortlist": 4},
}
"""Parameters for photos of `draw_photos`."""


@dataclass(frozen=True)
class Stage:
    name: str
    """As DVC calls it: `extract@index`."""
    command: list[str]
    deps: list[str]
    """Without the code."""
    params: list[str]
    outs: list[str]


def stages(model: str, dataset: str) -> list[Stage]:
    """All stages, in the order of `dvc.yaml`, with the metrics among their outs."""
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = []
    for name, stage in declared.items():
        for part in stage.get("matrix", {}).get("part", [""]):
            values = {"${item.part}": part, "${model}": model, "${dataset}": dataset}

            def filled(text, values=values):
                for key, value in values.items():
                    text = text.replace(key, value)
                return text

            outs = [*stage.get("outs", []), *[next(iter(metric)) for metric in stage.get("metrics", [])]]
            found.append(
                Stage(
                    f"{name}@{part}" if part else name,
                    filled(stage["cmd"]).split()[2:],
                    [filled(dep) for dep in stage["deps"] if not dep.startswith(CODE)],
                    list(map(filled, stage.get("params", []))),
                    list(map(filled, outs)),
                )
            )
    return found


def run(stage: Stage) -> str | None:
    """Run a stage; returns what it says where it fails."""
    with patch.object(sys, "argv", stage.command):
        try:
            runpy.run_path(str(ROOT / f"{stage.command[0].replace('.', '/')}.py"), run_name="__main__")
        except SystemExit as end:
            return str(end.code)
    return None


def contents(paths: list[str]) -> dict[Path, bytes]:
    """The files among and below `paths`."""
    files = [
        path for top in map(Path, paths) for path in ([top] if top.is_file() else sorted(top.rglob("*")))
    ]
    return {path: path.read_bytes() for path in files if path.is_file()}


def put(paths: list[str], source: Path, target: Path) -> None:
    """Put what is at `paths` below `source` below `target`, where it is not there by another one."""
    for path in sorted(paths):
        if (source / path).exists() and not (target / path).exists():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            if (source / path).is_dir():
                (target / path).symlink_to(source / path)
            else:
                shutil.copy(source / path, target / path)


def write_params(**values: Any) -> None:
    """Write `params.yaml`: that of the repository with other `values`; a section may be given in part."""
    options = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump(updated(options, values)), encoding="utf-8")


def updated(options: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`options` with other `values`, section by section."""
    both = {
        name: updated(options[name], value) if isinstance(options.get(name), dict) else value
        for name, value in values.items()
    }
    return options | both


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The names of the parameters that are read of what `params.load` returns."""
    names: set[str] = set()
    where: dict[int, tuple[str, Any]] = {}
    load = params.load
    get, dump = params.Section.__getattribute__, params.Section.model_dump

    def loaded(*arguments):
        where.clear()  # what checks the values has read them all

        def walk(section, path):
            where[id(section)] = path, section
            for name in type(section).model_fields:
                value = get(section, name)
                if isinstance(value, params.Section):
                    walk(value, f"{path}{name}.")

        options = load(*arguments)
        walk(options, "")
        return options

    def getting(self, name):
        value = get(self, name)
        if id(self) in where and name in type(self).model_fields and not isinstance(value, params.Section):
            names.add(where[id(self)][0] + name)
        return value

    def dumping(self, *, include=None, exclude=()):
        if id(self) in where:
            path = where[id(self)][0]
            kept = (include or set(type(self).model_fields)) - set(exclude)
            names.update(name for name in leaves() if name.startswith(tuple(f"{path}{key}" for key in kept)))
        return dump(self, include=include, exclude=set(exclude))

    with (
        patch.object(params, "load", loaded),
        patch.object(params.Section, "__getattribute__", getting),
        patch.object(params.Section, "model_dump", dumping),
    ):
        yield names


def leaves_of(stage: Stage) -> set[str]:
    """The names of the parameters that a stage declares."""
    return {leaf for leaf in leaves() if f"{leaf}.".startswith(tuple(f"{name}." for name in stage.params))}


def leaves() -> set[str]:
    """The names of all parameters: `split.test`."""

    def of(values, prefix=""):
        for name, value in values.items():
            yield from of(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    return set(of(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))))


_watched: list[set[str]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event == "open" and isinstance(arguments[0], str):
        _watched[-1].add(arguments[0])


sys.addaudithook(_watch)


@contextmanager
def opened() -> Iterator[set[str]]:
    """The paths, as they are named, of the files that are opened."""
    _watched.append(set())
    try:
        yield _watched[-1]
    finally:
        _watched.pop()


def draw_photos(images: Path, landmarks: int = 3, each: int = 8, size: tuple[int, int] = (96, 72)) -> None:
    """Write photos of squares, those of a landmark parts of one picture, a landmark with one photo more."""
    for number in range(landmarks):
        random = np.random.default_rng(number)
        squares = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        picture = squares.resize((2 * size[0], 2 * size[1]), Image.Resampling.NEAREST)
        for photo in range(each + number):
            left, top = random.integers(0, size)
            part = picture.crop((left // 3, top // 3, left // 3 + 1.5 * size[0], top // 3 + 1.5 * size[1]))
            path = images / f"landmark {number}" / f"{photo}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            part.resize(size).save(path, quality=int(random.integers(60, 96)))


def judge(dataset: str, protocol: str) -> None:
    """Write a ground truth: part of a photo is the query, the others are of all grades by turns."""
    grades = {"revisited": ("easy", "hard", "junk"), "oxford": ("good", "ok", "junk")}[protocol]
    *photos, query = sorted(path.as_posix() for path in Path("data", dataset, "images").rglob("*.jpg"))
    truth = {ground_truth.Query(query, (2, 2, 90, 70)): dict(zip(photos, cycle(grades), strict=False))}
    ground_truth.write(Path("data", dataset, "ground_truth.csv"), truth, with_checksum=False)
