"""A random bit of what a stage is handed is flipped: the stage tells of it, or its outputs are the same."""

import random
import runpy
import sys
from itertools import cycle, islice
from pathlib import Path

import pytest
import yaml

from landmarks.errors import InputError
from landmarks.scoring import reports

ROOT = Path(__file__).parents[2]
FLIPS = 150  # for each model

SMALL = {
    "backbone": "resnet18",
    "weights": "random",
    "demo": {"classes": 3, "photos": 10},
    "pretrained": {"image_size": 32},
    "finetuned": {"image_size": 32, "train_size": 32, "epochs": 1, "frozen": 0},
    "vlad": {"words": 4, "max_side": 128, "kmeans_iterations": 2},
    "extract": {"engine": "torch"},
    "evaluate": {"bootstrap": 0},
    "gallery": {"queries": 1, "results": 2},
}


def stages(model):
    """The command of each stage, what it reads of other stages, and what it writes, in order."""
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    made = []
    for stage in declared.values():
        for part in stage.get("matrix", {}).get("part", [""]):

            def filled(text, part=part):
                return (
                    text.replace("${item.part}", part)
                    .replace("${model}", model)
                    .replace("${dataset}", "demo")
                )

            outs = [*stage.get("outs", []), *[next(iter(metric)) for metric in stage.get("metrics", [])]]
            made.append((filled(stage["cmd"]).split()[2:], stage["deps"], list(map(filled, outs)), filled))
    written = {out for _, _, outs, _ in made for out in outs if Path(out).suffix}
    return [
        (command, sorted(written.intersection(map(filled, deps))), outs)
        for command, deps, outs, filled in made
    ]


def run(command, monkeypatch):
    """Run a stage in this process, which has imported what is slow; returns what it says as it ends."""
    monkeypatch.setattr(sys, "argv", command)
    try:
        runpy.run_module(command[0], run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def contents(outs):
    files = [file for out in map(Path, outs) for file in ([out] if out.is_file() else sorted(out.rglob("*")))]
    return {file: file.read_bytes() for file in files if file.is_file()}


def flip(path, chance):
    content = bytearray(path.read_bytes())
    place = chance.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["finetuned", "vlad"])
def test_a_flipped_bit_is_told_of_or_changes_nothing(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    options = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name, values in SMALL.items():
        options[name] = {**options[name], **values} if isinstance(values, dict) else values
    Path("params.yaml").write_text(yaml.safe_dump(options | {"model": model}), encoding="utf-8")
    pipeline = stages(model)
    whole = {}
    for command, _, outs in pipeline:
        assert run(command, monkeypatch) == 0
        whole |= contents(outs)
    evaluation = reports.read(Path("reports"))

    handed = [(command, dep, outs) for command, deps, outs in pipeline for dep in deps]
    handed += [
        (None, f"reports/{path}{end}", [])  # read by the server
        for path in reports.HEADERS
        for end in ("", ".xxh")
    ]
    assert len({dep for _, dep, _ in handed}) == 27
    chance = random.Random(model)
    noticed = 0
    for command, dep, outs in islice(cycle(handed), FLIPS):
        flip(Path(dep), chance)
        if command:
            told = run(command, monkeypatch)
        else:
            try:
                told = 0
                assert reports.read(Path("reports")) == evaluation
            except InputError as error:
                told = f"error: {error}"
        if told:
            noticed += 1
            assert told.startswith("error: ")
            assert dep in told
        else:
            now = contents(outs)
            assert now == {path: whole[path] for path in now}, (command, dep)
        for path, content in whole.items():
            if any(path.is_relative_to(changed) for changed in (dep, *outs)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    assert noticed > 0.8 * FLIPS
