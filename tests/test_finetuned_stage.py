"""The stage `stages/model/finetuned.py` as DVC starts it, in a project of sixteen small photos."""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from landmarks import catalog, describers, files
from landmarks.trunks import Trunk

ROOT = Path(__file__).parents[1]
STAGE = "stages/model/finetuned.py"
MODEL = Path("models/model.safetensors")
CURVE = Path("reports/training.csv")

# Runs the stage, but dies in the middle of one checkpoint: argv is how many are written before, and
# how much of the next one (1: all of it, but it has not got its name).
DYING = """
import io, os, runpy, signal, sys
import torch

before, share = int(sys.argv[1]), float(sys.argv[2])
save = torch.save

def dying_save(state, file):
    global before
    written = io.BytesIO()
    save(state, written)
    content = written.getvalue()
    if before == 0:
        file.write(content[: int(share * len(content))])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    before -= 1
    file.write(content)

torch.save = dying_save
runpy.run_path("stages/model/finetuned.py", run_name="__main__")
"""


@dataclass
class Started:
    """A stage that runs in a process group of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, pattern: str) -> None:
        """Wait until the log has `pattern`, or the process has ended."""
        while not re.search(pattern, self.text()) and self.process.poll() is None:
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def end(self) -> int:
        try:
            return self.process.wait(timeout=120)
        finally:
            self.send(signal.SIGKILL)


@dataclass(frozen=True)
class Folder:
    """What the stage finds: parameters, lists of photos, photos."""

    root: Path

    def start(self, *command: str, **env: str) -> Started:
        log = self.root / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *(command or [STAGE])],
                cwd=self.root,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Started(process, log)

    def run(self, **env: str) -> tuple[int, str]:
        started = self.start(**env)
        return started.end(), started.text()

    def list_photos(self, part: str, photos: list[catalog.Photo]) -> None:
        catalog.write_rows(self.root / f"data/splits/{part}.csv", catalog.HEADER, photos)

    def curve(self) -> list[dict[str, str]]:
        with (self.root / CURVE).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def checkpoints(self) -> list[Path]:
        return sorted((self.root / "models/checkpoints").glob("*/*.pt"))

    def made(self) -> dict[str, str]:
        """A hash of each file that the training leaves."""
        paths = [self.root / MODEL, self.root / CURVE, *self.checkpoints()]
        return {str(path.relative_to(self.root)): files.sha256(path) for path in paths}


@pytest.fixture
def photos(tmp_path: Path) -> list[catalog.Photo]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(16):
        photo = catalog.Photo(f"data/demo/images/{number}.png", ("abbey", "bridge", "castle")[number % 3])
        path = tmp_path / photo.image_path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
        made.append(photo)
    return made


@pytest.fixture
def folder(tmp_path: Path, photos: list[catalog.Photo]) -> Callable[..., Folder]:
    """Make the folder, with changes to the section `finetuned`."""

    def make(**changes: object) -> Folder:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params.update(model="finetuned", backbone="resnet18", weights="random")
        params["finetuned"].update(
            {"image_size": 32, "batch_size": 8, "frozen": 0, "batch_norm": "trained", "workers": 0, **changes}
        )
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        (tmp_path / "stages").symlink_to(ROOT / "stages")
        made = Folder(tmp_path)
        made.list_photos("train", photos[:12])
        made.list_photos("val", photos[12:])
        return made

    return make


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_bits_of_an_uninterrupted_run(folder: Callable[..., Folder]):
    epochs = 16
    project = folder(epochs=epochs, checkpoint_every=3, keep="last")
    whole = project.start()
    whole.wait_for("epoch 1/")
    began = time.monotonic()
    assert whole.end() == 0
    an_epoch = (time.monotonic() - began) / epochs
    expected = project.made()
    assert set(map(Path, expected)) >= {MODEL, CURVE}
    assert len(expected) == 4
    for name in expected:
        (project.root / name).unlink()

    chance = random.Random(4)
    at_random = [("random", epoch) for epoch in sorted(chance.sample(range(1, epochs - 1), 9))]
    while_writing = [("writing", share) for share in (0.0, 0.3, 0.7, 1.0)]
    plan = [*at_random, *while_writing]
    chance.shuffle(plan)
    epochs_of_kills = iter(sorted(epoch for kind, epoch in plan if kind == "random"))
    kills = {"random": 0, "writing": 0}
    gone_on_after = []
    for kind, share in plan:
        had_checkpoint = bool(project.checkpoints())
        if kind == "writing":
            started = project.start("-c", DYING, str(chance.randrange(2) if had_checkpoint else 1), str(share))
            started.wait_for("never")
        else:
            started = project.start()
            started.wait_for(f"epoch {next(epochs_of_kills)}/")
            time.sleep(chance.uniform(0, an_epoch))
            started.send(signal.SIGKILL)
        if started.end() == -signal.SIGKILL:
            kills[kind] += 1
        assert not (project.root / MODEL).exists()
        gone_on_after += check_start(started.text(), had_checkpoint)
    assert kills == {"random": 9, "writing": 4}  # thirteen trainings were really interrupted

    code, log = project.run()
    assert code == 0, log
    gone_on_after += check_start(log, had_checkpoint=True)
    assert gone_on_after == sorted(gone_on_after)
    assert gone_on_after[-1] >= epochs // 2
    assert project.made() == expected


def check_start(log: str, had_checkpoint: bool) -> list[int]:
    """The epoch that a run went on after: it does so wherever there is a checkpoint, and all are whole."""
    assert "broken" not in log
    gone_on_after = [int(epoch) for epoch in re.findall(r"going on after epoch (\d+) of", log)]
    assert len(gone_on_after) == had_checkpoint, log
    first_trained = re.search(r"epoch (\d+)/\d+:", log)
    assert first_trained, log
    assert int(first_trained[1]) == 1 + sum(gone_on_after)
    return gone_on_after
