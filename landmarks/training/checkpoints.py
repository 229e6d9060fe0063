"""Checkpoints to go on from: of which run they are, and which is the newest that is whole."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from pickle import UnpicklingError
from time import sleep
from typing import Any, NamedTuple

import PIL
import timm
import torch
import torchvision
from filelock import BaseFileLock, FileLock, Timeout

from landmarks.describing.weights import UNREADABLE, first_line
from landmarks.errors import InputError
from landmarks.files import explained, replacing, sha256
from landmarks.photos.catalog import Photo
from landmarks.training import losses
from landmarks.training.events import Epoch
from landmarks.training.processes import first_says, rank, world

log = logging.getLogger(__name__)

LAST, BEST = "last.pt", "best.pt"
LIBRARY = Path(__file__).parents[1]
SHAPING = ("photos", "describing", "training")
"""The packages whose code shapes the trained weights."""


def identity(train: Sequence[Photo], val: Sequence[Photo], parameters: dict[str, Any], weights: str) -> str:
    """A hash of everything that shapes the trained weights: photos, parameters, code and versions.

    Raises `InputError` if a photo is gone or cannot be read.
    """
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for photo in (*train, *val):
        try:
            digest.update(json.dumps([*photo, sha256(Path(photo.image_path))]).encode())
        except OSError as error:
            raise InputError(
                f"{photo.image_path}: gone or not readable ({error.strerror}); run `dvc repro` again"
            ) from None
    code = (file for room in SHAPING for file in sorted((LIBRARY / room).glob("*.py")))
    for source in (*code, *([Path(weights)] if Path(weights).is_file() else [])):
        digest.update(sha256(source).encode())
    versions = [module.__version__ for module in (torch, torchvision, timm, PIL)]
    versions.append(losses.LIBRARY_VERSION)
    digest.update(json.dumps([len(train), versions, world(), torch.get_num_threads()]).encode())
    return digest.hexdigest()[:16]


@contextmanager
def alone(checkpoints: Path) -> Iterator[None]:
    """Wait until no other run works with this folder, since one would overwrite what the other goes on from.

    If the file system has no locks, there is nothing to wait for. Raises `InputError` if the folder cannot be
    made.
    """
    with explained(checkpoints):
        checkpoints.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoints / ".lock")
    waits = False
    while not first_says(_acquired(lock) if rank() == 0 else False):
        if not waits:
            log.info("%s: another run trains the same, waiting for its end", checkpoints)
        waits = True
        sleep(1)
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        log.debug("%s: not locked (%s)", lock.lock_file, error)
    return True


class Checkpoint(NamedTuple):
    """The part of a `Training` that carries over."""

    path: Path
    run: str
    net: dict[str, Any]
    optimizer: dict[str, Any]
    history: list[Epoch]
    best: int


def newest(folder: Path, keep_best: bool) -> Checkpoint | None:
    """The newest checkpoint in `folder`, named by its run, that is whole and of that run; None for none.

    `keep_best`: that of the best epoch is needed, too. Raises `InputError` if it is missing beside the last.
    """
    last, best = _usable(folder / LAST), _usable(folder / BEST)
    if last and best and not _of_one_run(last, best):
        log.warning("%s: not of one run with %s; left alone", last.path, BEST)
        last = None  # The best one needs no other: it was the best so far.
    if last and not best and keep_best:
        best_of(folder, last.history, last.best)
    return best if best and (not last or len(best.history) > len(last.history)) else last


def best_of(folder: Path, history: list[Epoch], best: int) -> Checkpoint:
    """The checkpoint in `folder` of the epoch `history[best]`. Raises `InputError` if it is not there."""
    path = folder / BEST
    advice = f"epoch {best + 1} was best; put its checkpoint back, or delete that folder to train anew"
    try:
        checkpoint = _read(path)
    except InputError as error:
        raise InputError(f"{error}; {advice}") from None
    if checkpoint.history != history[: best + 1]:
        raise InputError(f"{path}: of another run; {advice}")
    return checkpoint


def write(checkpoint: Checkpoint, classes: Sequence[str]) -> None:
    """Write a checkpoint, whole or not at all even if the power fails; `classes` are for who looks in."""
    state = checkpoint._asdict() | {
        "history": [astuple(epoch) for epoch in checkpoint.history],
        "classes": classes,
    }
    del state["path"]
    with replacing(checkpoint.path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _usable(path: Path) -> Checkpoint | None:
    try:
        return _read(path)
    except InputError as error:
        if path.exists():
            log.warning("%s; left alone", error)
        return None


def _read(path: Path) -> Checkpoint:
    """What `write` wrote. Raises `InputError` if it is gone, broken, or not of the run of its folder."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["history"] = [Epoch(*row) for row in state["history"]]
        checkpoint = Checkpoint(path, *(state[name] for name in Checkpoint._fields[1:]))
    except FileNotFoundError:
        raise InputError(f"{path}: gone") from None
    except (*UNREADABLE, UnpicklingError) as error:
        raise InputError(f"{path}: broken ({first_line(error)})") from None
    if checkpoint.run != path.parent.name:
        raise InputError(f"{path}: of another run ({checkpoint.run})")
    return checkpoint


def _of_one_run(last: Checkpoint, best: Checkpoint) -> bool:
    """Whether `best` is of the best epoch that `last` knows of, or of a later one."""
    if len(best.history) > len(last.history):  # it was killed before the next `LAST`
        return best.history[: len(last.history)] == last.history
    return best.history == last.history[: last.best + 1]
