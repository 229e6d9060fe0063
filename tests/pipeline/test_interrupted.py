"""Experiments that run in a copy of the repository, which DVC removes however they end."""

import os
import re
import signal
import subprocess
import time
from itertools import chain

import pytest

from .conftest import Project

SETTINGS = [
    "model=finetuned",
    "backbone=resnet18",
    "weights=random",
    "finetuned.image_size=32",
    "finetuned.train_size=32",
    "finetuned.frozen=0",
    "finetuned.epochs=12",
    "finetuned.checkpoint_every=1",
]
EXPERIMENT = ["dvc", "exp", "run", "--temp", *chain.from_iterable(("-S", setting) for setting in SETTINGS)]


@pytest.mark.slow
def test_an_experiment_in_a_copy_that_is_interrupted_goes_on_when_it_is_run_again(at_first: Project):
    log = at_first.root / ".dvc/tmp/interrupted.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            EXPERIMENT,
            cwd=at_first.root,
            env=at_first.env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while process.poll() is None and "epoch 3/12" not in log.read_text():
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) != 0
    said = log.read_text()
    [named] = re.findall(r"\ninterrupted; the last checkpoint is (\S+), run again to go on\n", said)
    assert re.fullmatch(rf"{at_first.root}/models/checkpoints/\w+/(last|best)\.pt", named)
    assert list(at_first.root.glob(".dvc/tmp/exps/**/tmp*")) == []

    said = at_first.run(*EXPERIMENT)
    said = said.stdout + said.stderr
    [after] = re.findall(rf"\ngoing on after epoch (\d+) of {at_first.root}/models/checkpoints/", said)
    assert int(after) >= 2  # it says so, and then it saves
    assert "epoch 12/12: " in said
    assert "Ran experiment(s)" in said
    assert len(list((at_first.root / "runs").iterdir())) == 2
