"""The stage `stages.model.finetuned` as DVC starts it, in a project of sixteen small photos."""

import csv
import math
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
from filelock import FileLock, Timeout
from PIL import Image

from landmarks import files
from landmarks.describing import describers, trunks
from landmarks.describing.trunks import Trunk
from landmarks.photos import catalog
from landmarks.training import loop
from stages.model import finetuned

ROOT = Path(__file__).parents[2]
STAGE = "stages.model.finetuned"
MODEL = Path("models/model.safetensors")
CURVE = Path("reports/training.csv")
EPOCHS = 16

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
runpy.run_module("stages.model.finetuned", run_name="__main__")
"""


def trained(log: str) -> list[int]:
    """The epochs that the log says were trained."""
    return [int(epoch) for epoch in re.findall(r"^epoch (\d+)/\d+: learning rate", log, re.MULTILINE)]


def gone_on_after(log: str) -> list[int]:
    return [int(epoch) for epoch in re.findall(r"going on after epoch (\d+) of", log)]


@dataclass
class Started:
    """A stage that runs in a process group of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def wait_for_epoch(self, epoch: int) -> None:
        """Wait until this epoch or a later one has been trained, or the process has ended."""
        while self.process.poll() is None:
            log = self.text()
            if epoch <= max(gone_on_after(log) + trained(log), default=0):
                return
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def end(self) -> int:
        try:
            return self.process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            pytest.fail(f"goes on after two minutes:\n{self.text()[-3000:]}")
        finally:
            self.send(signal.SIGKILL)


@dataclass(frozen=True)
class Folder:
    """What the stage finds: parameters, lists of photos, photos."""

    root: Path
    lasting: Path
    """Where checkpoints and event files are to lie."""

    def start(self, *command: str, **env: str) -> Started:
        log = self.root / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *(command or ["-m", STAGE])],
                cwd=self.root,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "LANDMARKS_STATE": "",
                    **env,
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Started(process, log)

    def run(self, **env: str) -> tuple[int, str]:
        started = self.start(**env)
        return started.end(), started.text()

    def list_photos(self, part: str, photos: list[catalog.Photo]) -> None:
        catalog.write_photos(self.root / f"data/splits/{part}.csv", photos)

    def curve(self) -> list[dict[str, str]]:
        with (self.root / CURVE).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def checkpoints(self) -> list[Path]:
        return sorted((self.lasting / "models/checkpoints").glob("*/*.pt"))

    def made(self) -> dict[str, str]:
        """A hash of each file that the training leaves."""
        paths = [self.root / MODEL, self.root / CURVE, *self.checkpoints()]
        return {str(path.relative_to(self.root)): files.sha256(path) for path in paths}


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Where the stage runs."""
    return tmp_path / getattr(request, "param", "")


@pytest.fixture
def photos(root: Path) -> list[catalog.Photo]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(16):
        photo = catalog.Photo(f"data/demo/images/{number}.png", ("abbey", "bridge", "castle")[number % 3])
        path = root / photo.image_path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
        made.append(photo)
    return made


@pytest.fixture
def folder(tmp_path: Path, root: Path, photos: list[catalog.Photo]) -> Callable[..., Folder]:
    """Make the folder, with changes to the section `finetuned`."""

    def make(**changes: object) -> Folder:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params.update(model="finetuned", backbone="resnet18", weights="random")
        params["finetuned"].update(
            {
                "image_size": 32,
                "train_size": 32,
                "batch_size": 8,
                "frozen": 0,
                "batch_norm": "trained",
                "workers": 0,
                **changes,
            }
        )
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        (root / "stages").symlink_to(ROOT / "stages")
        made = Folder(root, tmp_path)
        made.list_photos("train", photos[:12])
        made.list_photos("val", photos[12:])
        return made

    return make


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_bits_of_an_uninterrupted_run(folder: Callable[..., Folder]):
    project = folder(epochs=EPOCHS, checkpoint_every=3, keep="last")
    whole = project.start()
    whole.wait_for_epoch(1)
    began = time.monotonic()
    assert whole.end() == 0
    an_epoch = (time.monotonic() - began) / (EPOCHS - 1)
    expected = project.made()
    assert sorted(Path(name).name for name in expected) == ["best.pt", "last.pt", MODEL.name, CURVE.name]
    for name in expected:
        (project.root / name).unlink()

    chance = random.Random(4)
    moments = sorted(chance.uniform(1, EPOCHS - 2) for _ in range(9))
    plan = [None] * len(moments) + [(1, 0.0), (0, 0.3), (0, 0.7), (0, 1.0)]
    chance.shuffle(plan)
    killed = {"at random": 0, "while writing": 0}
    went_on_after = []
    for dying in plan:
        had_checkpoint = bool(project.checkpoints())
        if dying:
            started = project.start("-c", DYING, *map(str, dying))
        else:
            started = project.start()
            part, epoch = math.modf(moments.pop(0))
            started.wait_for_epoch(int(epoch))
            time.sleep(part * an_epoch)
            started.send(signal.SIGKILL)
        assert started.end() == -signal.SIGKILL, started.text()
        killed["while writing" if dying else "at random"] += 1
        assert not (project.root / MODEL).exists()
        went_on_after += check_start(started.text(), had_checkpoint)
    assert killed == {"at random": 9, "while writing": 4}  # all of them in training, as check_start says

    code, log = project.run()
    assert code == 0, log
    went_on_after += check_start(log, had_checkpoint=True)
    assert went_on_after == sorted(went_on_after)
    assert went_on_after[-1] > EPOCHS // 2
    assert project.made() == expected


def check_start(log: str, had_checkpoint: bool) -> list[int]:
    """The epoch that a run went on after: it does so wherever there is a checkpoint, and all are whole."""
    assert "broken" not in log
    after = gone_on_after(log)
    assert len(after) == had_checkpoint, log
    assert trained(log)[:1] in ([], [1 + sum(after)])
    return after


@pytest.mark.parametrize(
    ("number", "word", "processes", "root"),
    [
        (signal.SIGTERM, "terminated", "1", ".dvc/tmp/exps/standalone/tmpcopy"),
        pytest.param(signal.SIGINT, "interrupted", "1", "", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "terminated", "1", ".dvc/tmp/exps/tmpcopy", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "terminated", "2", "", marks=pytest.mark.slow),
    ],
    indirect=["root"],
)
def test_what_ends_training_from_outside_names_the_last_checkpoint_and_writes_no_model(
    folder: Callable[..., Folder], number: signal.Signals, word: str, processes: str
):
    project = folder(epochs=1000, checkpoint_every=1, batch_size=4)
    started = project.start(NPROC=processes)
    started.wait_for_epoch(2)
    started.send(number)
    assert started.end() == 128 + number, started.text()
    log = started.text()
    assert "Traceback" not in log
    [said] = [line for line in log.splitlines() if word in line]
    named = re.fullmatch(rf"{word}; the last checkpoint is (\S+), run again to go on", said)
    assert named, log
    assert project.root / named[1] in project.checkpoints()
    assert [path.name for path in (project.lasting / "models").iterdir()] == ["checkpoints"]
    assert len(list((project.lasting / "runs").iterdir())) == 1
    assert not (project.root / CURVE).exists()


@pytest.mark.parametrize(
    ("root", "named", "expected"),
    [
        ("", None, ""),
        ("", "/scratch/kept", "/scratch/kept"),
        (".dvc/tmp", None, ".dvc/tmp"),
        (".dvc/tmp/exps/tmpabc", None, ""),
        (".dvc/tmp/exps/standalone/tmpabc", None, ""),
        (".dvc/tmp/exps/standalone/tmpabc/part", None, ""),
        (".dvc/tmp/exps/tmpabc", "../kept", "../kept"),
        (".dvc/tmp/exps/tmpabc", "/scratch/kept", "/scratch/kept"),
        ("photos .dvc/tmp/exps/đường", None, "photos .dvc/tmp/exps/đường"),
    ],
)
def test_checkpoints_and_event_files_lie_where_dvc_does_not_remove_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, named: str | None, expected: str
):
    (tmp_path / root).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / root)
    monkeypatch.delenv("LANDMARKS_STATE", raising=False)
    if named:
        monkeypatch.setenv("LANDMARKS_STATE", named)
    assert Path.cwd() / finetuned.lasting() == tmp_path / expected


def test_a_run_works_alone_in_a_folder_named_by_all_that_shapes_it(
    folder: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch
):
    project = folder()
    monkeypatch.chdir(project.root)
    options = yaml.safe_load(Path("params.yaml").read_text()) | {"weights": "weights.pth"}
    began: list[Path] = []

    class Began:
        def __init__(self, *arguments: object) -> None:
            began.append(Path(str(arguments[-1])))

        def resume(self) -> None:
            with pytest.raises(Timeout):
                FileLock(began[-1] / ".lock").acquire(blocking=False)
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "Training", Began)
    monkeypatch.setattr(trunks, "pretrained", lambda *_, **__: None)

    def named(of_weights: bytes = b"", epochs: int = 12, **changes: object) -> Path:
        Path("weights.pth").write_bytes(of_weights)
        options["finetuned"]["epochs"] = epochs
        Path("params.yaml").write_text(yaml.safe_dump(options | changes))
        with pytest.raises(KeyboardInterrupt):
            finetuned.main()
        return began[-1]

    first = named()
    assert named(distance="L3", rerank="two") == first
    others = [named(b"others"), named(epochs=13), named(seed=1), named(backbone="resnet34")]
    project.list_photos("val", catalog.read_photos(Path("data/splits/val.csv"))[1:])
    assert len({first, *others, named()}) == 6


@pytest.mark.parametrize("loss", ["proxy_anchor", pytest.param("cross_entropy", marks=pytest.mark.slow)])
def test_two_processes_write_one_model_one_curve_and_one_run(folder: Callable[..., Folder], loss: str):
    project = folder(epochs=2, batch_size=4, loss=loss, per_class=2)
    code, log = project.run(NPROC="2")
    assert code == 0, log
    model = describers.read(project.root / MODEL)
    assert isinstance(model, Trunk)
    assert model.head is not None
    assert model.head.classes == ("abbey", "bridge", "castle")
    if loss == "proxy_anchor":  # what both have seen
        lengths = np.linalg.norm(model.head.linear.weight.detach().numpy(), axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    assert len(list((project.root / "runs").iterdir())) == 1
    curve = project.curve()
    assert [row["epoch"] for row in curve] == ["1", "2"]
    figures = [float(row[name]) for row in curve for name in row]
    assert all(map(math.isfinite, figures))


def test_a_training_that_fails_is_one_error_line_and_leaves_the_model_that_was(
    folder: Callable[..., Folder],
):
    project = folder(lr=1e20, warmup_epochs=0)
    (project.root / MODEL).parent.mkdir()
    (project.root / MODEL).write_bytes(b"of before")
    code, log = project.run()
    assert code == 1
    errors = [line for line in log.splitlines() if "error" in line.lower()]
    assert len(errors) == 1, log
    assert re.match("error: finetuned: the loss became (nan|inf) in epoch ", errors[0])
    assert "Traceback" not in log
    assert (project.root / MODEL).read_bytes() == b"of before"
    assert not (project.root / CURVE).exists()
