"""Which checkpoints a training goes on from, in folders that hold what several runs have left."""

import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread, Timer
from time import sleep

import pytest
import torch

from landmarks import params
from landmarks.describing import trunks
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.training import checkpoints, loop
from landmarks.training.checkpoints import BEST, LAST

EPOCHS = 12
RUN = "0123456789abcdef"
PHOTOS = [Photo(f"{number}.png", ("abbey", "bridge")[number % 2]) for number in range(8)]
RECIPE = params.load(Path(__file__).parents[2] / "params.yaml").finetuned.model_copy(
    update={"epochs": EPOCHS, "frozen": 0, "train_size": 32, "image_size": 32, "checkpoint_every": 5}
)


def figures(machine: str, name: str) -> tuple[float, float, float]:
    """Loss and precisions of a pass over the photos, by and by better, and other ones on another machine."""
    epoch = int(name.split()[1].split("/")[0])
    chance = random.Random(f"{machine} {name}")
    return chance.random(), (epoch + chance.randrange(5)) / 20, 1.0


def losses_of(machine: str, epochs: int) -> list[float]:
    return [figures(machine, f"epoch {number + 1}/{EPOCHS}")[0] for number in range(epochs)]


class Trainings:
    """Trainings that look at no photo, and whose weights tell of which epochs they are.

    Their bias is the sum of the training losses so far.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.trunk = trunks.pretrained("test_resnet", "random", 32, "avgpool", seed=0)
        self.machine = "here"
        patch.setattr(loop, "one_pass", self._pass)
        patch.setattr(checkpoints.os, "fsync", lambda _: None)

    def _pass(self, model, loader, options, name, recipe, optimizer=None):
        made = figures(self.machine, name)
        if optimizer:
            with torch.no_grad():
                model.head.bias += made[0]
        return made

    def resumed(
        self, folder: Path, keep: str = "best", machine: str = "here", every: int = 5
    ) -> loop.Training:
        self.machine = machine
        recipe = RECIPE.model_copy(update={"keep": keep, "checkpoint_every": every})
        course = loop.Training(self.trunk, PHOTOS, PHOTOS, recipe, 0, folder)
        torch.nn.init.zeros_(course.net.head.bias)
        course.resume()
        return course


@pytest.fixture(scope="module")
def trainings():
    with pytest.MonkeyPatch.context() as patch:
        yield Trainings(patch)


@pytest.fixture(scope="module")
def left(trainings, tmp_path_factory):
    """The folder that a run has left when it was killed after so many epochs, by machine, run and epochs."""
    folders = {}
    for machine, run in (("here", RUN), ("elsewhere", RUN), ("here", "f" * 16)):
        folder = tmp_path_factory.mktemp("run") / run
        for epoch in trainings.resumed(folder, machine=machine).epochs():
            kept = folder.with_name(f"after {epoch.epoch}")
            shutil.copytree(folder, kept)
            folders[machine, run, epoch.epoch] = kept
    return folders


KINDS = ["here", "elsewhere", "of another run", "broken", "gone"]


def put(path: Path, kind: str, left: dict[tuple[str, str, int], Path], chance: random.Random) -> None:
    if kind == "gone":
        return
    machine, run = ("here", "f" * 16) if kind == "of another run" else (kind, RUN)
    if kind == "broken":
        whole = (left["here", RUN, 5] / path.name).read_bytes()
        cut = whole[: chance.randrange(len(whole))]
        path.write_bytes(chance.choice([b"", cut, chance.randbytes(1000), b"PK\3\4" + bytes(500), b"hello"]))
    else:
        shutil.copy(left[machine, run, chance.randrange(5, EPOCHS + 1)] / path.name, path)


def held(path: Path) -> tuple[str, int] | None:
    """The machine and the number of epochs of a checkpoint, None where it is none of this run."""
    try:
        state = torch.load(path, weights_only=True)
    except Exception:
        return None
    if state["run"] != RUN:
        return None
    losses = [row[2] for row in state["history"]]
    [machine] = [name for name in ("here", "elsewhere") if losses == losses_of(name, len(losses))]
    return machine, len(losses)


@pytest.mark.parametrize("best", KINDS)
@pytest.mark.parametrize("last", KINDS)
def test_whatever_lies_there_the_model_is_of_one_run_and_nothing_is_left_alone_without_a_word(
    trainings, left, tmp_path, caplog, last, best
):
    chance = random.Random(f"{last} {best}")
    caplog.set_level("INFO")
    for number, keep in enumerate(("best", "best", "last")):
        folder = tmp_path / str(number) / RUN
        folder.mkdir(parents=True)
        put(folder / LAST, last, left, chance)
        put(folder / BEST, best, left, chance)
        caplog.clear()
        check(trainings, folder, keep, caplog)


def check(trainings, folder, keep, caplog):
    usable = {name: found for name in (LAST, BEST) if (found := held(folder / name))}
    if keep == "best" and set(usable) == {LAST}:
        with pytest.raises(InputError, match=rf"{BEST}: .*; epoch \d+ was best; put its checkpoint back, or"):
            trainings.resumed(folder, keep)
        return
    others = {path.name for path in folder.iterdir()} - set(usable)
    course = trainings.resumed(folder, keep)
    taken = course.checkpoint.name if course.checkpoint else None
    machine, began = usable.get(taken, ("here", 0))
    assert (taken in usable) == bool(usable)
    rows = list(course.epochs())
    losses = [row.train_loss for row in rows]
    assert losses == losses_of(machine, began) + losses_of("here", EPOCHS)[began:]

    quality = [(row.val_precision_at_1, -row.val_loss) for row in rows]
    kept = quality.index(max(quality)) + 1 if keep == "best" else EPOCHS
    bias = course.result().head.linear.bias.tolist()
    assert bias == pytest.approx([sum(losses[:kept])] * 2, rel=1e-5)

    for name in others:
        assert re.search(rf"{folder / name}: (broken|of another run) .*; left alone", caplog.text)
    if len(usable) == 2:
        one_run = usable[LAST][0] == usable[BEST][0]
        other = next(name for name in (LAST, BEST) if name != taken)
        if f"{folder / LAST}: not of one run with {BEST}; left alone" in caplog.text:
            assert taken == BEST
            assert not one_run or usable[BEST][1] < usable[LAST][1]  # an older one, say
        else:
            assert one_run
            assert began >= usable[other][1]


def test_a_best_checkpoint_that_is_exchanged_while_training_is_not_taken(trainings, left, tmp_path):
    for number, (machine, run) in enumerate([("elsewhere", RUN), ("here", "f" * 16)]):
        folder = tmp_path / str(number) / RUN
        course = trainings.resumed(folder)
        list(course.epochs())
        shutil.copy(left[machine, run, 9] / BEST, folder / BEST)
        with pytest.raises(InputError, match=rf"{folder / BEST}: of another run.*; epoch \d+ was best"):
            course.result()


def test_killed_after_any_epoch_it_goes_on_from_the_newest_and_nothing_is_said(
    trainings, left, caplog, tmp_path
):
    for epochs in range(1, EPOCHS + 1):
        folder = shutil.copytree(left["here", RUN, epochs], tmp_path / str(epochs) / RUN)
        # As a copy has it, the older one may be the newer file.
        for name in (LAST, BEST) if epochs % 2 else (BEST, LAST):
            if (folder / name).exists():
                (folder / name).touch()
        course = trainings.resumed(folder)
        assert len(course.history) == max(found[1] for name in (LAST, BEST) if (found := held(folder / name)))
    assert caplog.text == ""


@pytest.mark.parametrize("every", [1, 4, 5, 7, 50])
def test_the_last_checkpoint_is_of_every_so_many_epochs_and_of_the_end(trainings, tmp_path, every):
    for epoch in trainings.resumed(tmp_path / RUN, every=every).epochs():
        saved = EPOCHS if epoch.epoch == EPOCHS else epoch.epoch // every * every
        assert held(tmp_path / RUN / LAST) == (("here", saved) if saved else None)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        checkpoints.os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.exists()))
    )
    for count in (0, 1, 5000):
        path = tmp_path / f"{count}.pt"
        checkpoints.write(
            checkpoints.Checkpoint(path, RUN, {"weight": torch.ones(count)}, {}, [], 0), ["abbey"]
        )
        assert synced.pop() == (path.stat().st_size, False)
    assert not synced


class Trap:
    """What a pickle may do when it is loaded: here, make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("field", ["net", "optimizer", "history", "best", "classes"])
@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_checkpoint_that_would_run_something_is_left_alone(tmp_path, caplog, left, name, field):
    folder = shutil.copytree(left["here", RUN, 5], tmp_path / RUN)
    sprung = tmp_path / "sprung"
    state = torch.load(folder / name, weights_only=True)
    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))):
        save(state | {field: Trap(sprung)}, folder / name)
        caplog.clear()
        found = checkpoints.newest(folder, keep_best=False)
        assert found.path.name == {LAST: BEST, BEST: LAST}[name]
        assert f"{folder / name}: broken " in caplog.text
        assert not sprung.exists()


@pytest.fixture
def waited(monkeypatch):
    """How often there was a wait, which is a short one."""
    times = []
    monkeypatch.setattr(checkpoints, "sleep", lambda seconds: times.append(seconds) or sleep(0.01))
    return times


def test_a_run_waits_for_another_one_with_the_same_checkpoints(waited, tmp_path, caplog):
    caplog.set_level("INFO")
    order = []

    def other():
        with checkpoints.alone(tmp_path / RUN):
            order.append("other")

    with checkpoints.alone(tmp_path / "f" / RUN), checkpoints.alone(tmp_path / RUN):
        thread = Thread(target=other)
        thread.start()
        while len(waited) < 3:
            sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
    assert caplog.messages == [f"{tmp_path / RUN}: another run trains the same, waiting for its end"]


def test_a_run_that_was_killed_is_not_waited_for(waited, tmp_path):
    held = "lock.acquire()\nprint('held', flush=True)\ninput()"
    code = f"import sys, filelock\nlock = filelock.FileLock(sys.argv[1])\n{held}"
    (tmp_path / RUN).mkdir()
    command = [sys.executable, "-c", code, str(tmp_path / RUN / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        Timer(0.1, process.kill).start()
        with checkpoints.alone(tmp_path / RUN):
            assert process.wait() == -9
    assert waited


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError()], ids=repr)
def test_without_locks_a_run_goes_on(waited, tmp_path, monkeypatch, error):
    def acquire(*args, **settings):
        raise error

    monkeypatch.setattr(checkpoints.FileLock, "acquire", acquire)
    with checkpoints.alone(tmp_path / RUN):
        assert (tmp_path / RUN).is_dir()
    assert not waited
