"""Stages and `dvc repro` that are killed, and run again: what they make is the same, byte for byte.

LANDMARKS_KILLS=20 kills each of the three twenty times, at other moments.
"""

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import Project, copy_of_repository

KILLS = int(os.environ.get("LANDMARKS_KILLS", "1"))
OUTS = ["data/*.csv", "data/splits/*", "data/demo/images/*/*", "models/*.safetensors", "features/*.h5"]
OUTS += ["rankings/*.h5", "reports/*.*", "reports/plots/*", "reports/gallery/**/*.*", "dvc.lock"]
REPRO = ("dvc", "repro")
EXTRACT = (sys.executable, "-m", "stages.extract", "index")
TRAIN = (sys.executable, "-m", "stages.model.finetuned")
BEGUN = {REPRO: "params.yaml", EXTRACT: "features/index.h5.partial", TRAIN: "models/checkpoints/*/.lock"}
"""What is there as soon as a command works on what can be lost."""
MADE = {EXTRACT: ["features/index.h5"], TRAIN: ["reports/training.csv", "models/model.safetensors"]}
"""What a stage makes; the last one is whole when its work is done."""


@dataclass
class Reference:
    project: Project
    hashes: dict[str, str]
    seconds: dict[tuple[str, ...], float]
    """How long each command works, from when it has begun."""
    stages: dict[str, float]
    """How long DVC is at each stage."""


def hashes(root: Path) -> dict[str, str]:
    paths = sorted(path for out in OUTS for path in root.glob(out) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def left_over(root: Path) -> list[str]:
    found = [path for ending in ("tmp", "partial") for path in root.rglob(f"*.{ending}")]
    return sorted(str(path.relative_to(root)) for path in found if ".dvc" not in path.parts)


def log(project: Project) -> list[str]:
    return (project.root / ".git/killed.txt").read_text(errors="replace").splitlines()


def running(project: Project) -> list[str]:
    """The stages that DVC has begun so far."""
    return re.findall(r"^Running stage '(.*)':", "\n".join(log(project)), re.MULTILINE)


def started(project: Project, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """The `command`, which has begun to work when this returns."""
    with (project.root / ".git/killed.txt").open("wb") as file:
        process = subprocess.Popen(
            command, cwd=project.root, env=project.env, stdout=file, stderr=file, start_new_session=True
        )
    while process.poll() is None and not any(project.root.glob(BEGUN[command])):
        time.sleep(0.002)
    return process


def whole(project: Project, command: tuple[str, ...]) -> bool:
    """Whether a stage has done its work, and only has to end."""
    return command in MADE and (project.root / MADE[command][-1]).exists()


def prepare(project: Project, command: tuple[str, ...]) -> None:
    """A fresh clone for DVC, which has to run everything; and no trace of an earlier run for a stage."""
    if command == REPRO:
        project.run("git", "clean", "-fdxq")
        project.run("git", "checkout", "--quiet", "dvc.lock", "reports/metrics.json")
    for path in MADE.get(command, []):
        (project.root / path).unlink()
    if command == TRAIN:
        for path in project.root.glob("models/checkpoints/*/*.pt"):
            path.unlink()
        for path in project.root.glob("models/checkpoints/*/.lock"):
            path.unlink()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    project = copy_of_repository(tmp_path_factory.mktemp("killed"))
    project.set(
        demo__classes=4,
        demo__photos=10,
        backbone="resnet18",
        weights="random",
        split__train=0.3,
        split__index=0.4,
        finetuned__image_size=224,
        finetuned__train_size=64,
        finetuned__frozen=0,
        finetuned__epochs=2,
        finetuned__batch_size=4,
        finetuned__checkpoint_every=1,
        extract__engine="torch",
        extract__batch_size=1,
        evaluate__bootstrap=10,
        gallery__queries=1,
    )
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "Small")
    seconds, begun = {}, {}
    for command in BEGUN:
        prepare(project, command)
        process, start = started(project, command), time.monotonic()
        while process.poll() is None and not whole(project, command):
            time.sleep(0.002)
            begun |= {stage: time.monotonic() for stage in running(project) if stage not in begun}
        seconds[command] = time.monotonic() - start
        assert process.wait() == 0, log(project)
        if command == REPRO:
            made = hashes(project.root)
            ends = [*list(begun.values())[1:], time.monotonic()]
            stages = {stage: end - at for (stage, at), end in zip(begun.items(), ends, strict=True)}
    assert hashes(project.root) == made
    assert left_over(project.root) == []
    return Reference(project, made, seconds, stages)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("command", BEGUN, ids=["dvc repro", "extract", "train"])
def test_what_is_killed_and_run_again_makes_the_same_bytes(
    reference: Reference, command: tuple[str, ...], number: int
):
    project, root = reference.project, reference.project.root
    prepare(project, command)
    chance = random.Random(f"{command[-1]} {number}")
    process = started(project, command)
    stage, seconds = command[-1], reference.seconds[command]
    if command == REPRO:  # each stage in turn
        stage, seconds = list(reference.stages.items())[number % len(reference.stages)]
        while process.poll() is None and stage not in running(project):
            time.sleep(0.01)
    delay = chance.uniform(0, seconds)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    lying, steps = left_over(root), []
    if (root / "dvc.lock").stat().st_size == 0:  # as docs/troubleshooting.md says
        project.run("git", "checkout", "--quiet", "dvc.lock")
        steps.append("git checkout dvc.lock")
    last = log(project)[-1:]

    again = project.run(*command, check=False)
    if again.returncode and "rwlock" in again.stderr:
        (root / ".dvc/tmp/rwlock").unlink()
        steps.append("rm .dvc/tmp/rwlock")
        again = project.run(*command)
    print(f"\n{stage} {number}: {delay:.2f} of {seconds:.2f} s, {killed=}, {lying=}, {steps=}, {last=}")
    assert again.returncode == 0, again.stderr
    assert {path for path, digest in hashes(root).items() if reference.hashes.get(path) != digest} == set()
    assert hashes(root).keys() == reference.hashes.keys()
    assert left_over(root) == []
