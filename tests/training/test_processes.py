import contextlib
import errno
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from landmarks import errors
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.training import checkpoints, loop, processes

from .conftest import course, recipe

OF_SHARED_MEMORY = [
    RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
    RuntimeError("unable to mmap 1204224 bytes from file </torch_1>: Cannot allocate memory (12)"),
    RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
        "are out of shared memory. Please try to raise your shared memory limit."
    ),
    RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
    RuntimeError("received 0 items of ancdata"),
    RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError(errno.ENOSYS, "Function not implemented"),
    OSError(errno.EMFILE, "Too many open files"),
]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], DataLoader]:
    """A loader of so many workers whose iteration raises an error."""

    def make(workers: int, error: Exception) -> DataLoader:
        def fail(_: object) -> None:
            raise error

        monkeypatch.setattr(DataLoader, "__iter__", fail)
        return DataLoader([1, 2, 3], num_workers=workers)

    return make


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("error", OF_SHARED_MEMORY, ids=str)
def test_workers_without_shared_memory_are_told(
    failing: Callable[[int, Exception], DataLoader], error: Exception
):
    with pytest.raises(InputError) as caught:
        list(processes.batches(failing(3, error)))
    message = str(caught.value)
    told = f"the 3 processes that decode photos share memory, which failed ({error}); set it to 0"
    assert message.startswith(f"finetuned.workers: {told}")
    if sys.platform == "linux":
        size = shutil.disk_usage("/dev/shm").total >> 20
        assert message.endswith(f", or enlarge /dev/shm, which has {size} MB, as by docker run --shm-size=2g")


@pytest.mark.parametrize(
    ("workers", "error"),
    [
        (0, RuntimeError("shared memory, whatever that is")),
        (0, OSError(errno.ENOSPC, "No space left on device")),
        (2, RuntimeError("shapes do not match")),
        (2, KeyError("shared memory")),
        (2, InputError("photo.jpg: killed by a virus")),
    ],
    ids=str,
)
def test_other_errors_are_not_blamed_on_shared_memory(
    failing: Callable[[int, Exception], DataLoader], workers: int, error: Exception
):
    with pytest.raises(type(error)) as caught:
        list(processes.batches(failing(workers, error)))
    assert caught.value is error


@pytest.mark.skipif(sys.platform != "linux", reason="the process is forked, and inherits what fails")
def test_shared_memory_that_fails_in_a_worker_is_told_in_a_line(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(_: int) -> None:
        raise OF_SHARED_MEMORY[0]

    monkeypatch.setattr(torch.UntypedStorage, "_new_using_fd_cpu", fail)
    made = course(photos, tmp_path, recipe(workers=1))
    with pytest.raises(InputError, match=r"No space left on device \(28\)\); set it to 0") as caught:
        list(made.epochs())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "where"),
    [
        (signal.SIGINT, "correct"),
        (signal.SIGHUP, "correct"),
        (signal.SIGTERM, "saved"),
        (signal.SIGINT, "saved"),
    ],
)
def test_a_signal_whose_exception_is_lost_ends_training_all_the_same(
    photos: list[Photo],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    where: str,
):
    correct, save = loop.correct, torch.save
    monkeypatch.setattr(errors, "_last", float("-inf"))

    def come() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)

    def counted(*args: torch.Tensor) -> tuple[int, int]:
        come()  # as in a `__del__`
        return correct(*args)

    def saved(state: object, file: object) -> None:
        if (tmp_path / checkpoints.BEST).exists():
            come()
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 64")
        save(state, file)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    if where == "correct":
        monkeypatch.setattr(loop, "correct", counted)
    else:
        monkeypatch.setattr(torch, "save", saved)
    with pytest.raises(KeyboardInterrupt) as caught:
        list(course(photos, tmp_path, recipe(checkpoint_every=1, epochs=1)).epochs())
    assert isinstance(caught.value, errors.Terminated) == (number != signal.SIGINT)
    there = tmp_path / checkpoints.BEST if where == "saved" else "not yet there"
    assert caught.value.__notes__ == [f"the last checkpoint is {there}, run again to go on"]
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.undo()
    assert len(list(course(photos, tmp_path, recipe(epochs=1)).epochs())) == 1
