"""The processes that train together or decode photos, and the signals that stop them."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from landmarks.errors import InputError, stopped_by, terminable, terminate


@contextmanager
def processes() -> Iterator[bool]:
    """Join the other processes where torchrun started several; whether this is the one that writes."""
    if "LOCAL_RANK" not in os.environ:
        yield True
        return
    if torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise InputError(
                f"NPROC: {os.environ['LOCAL_WORLD_SIZE']} is more than the {gpus} GPUs there are"
            )
        torch.cuda.set_device(local)
    # The figures of a pass are summed on the CPU, which NCCL alone does not do.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield rank() == 0
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process among those that train, 0 for the first."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first_says(answer: bool) -> bool:
    """The answer of the first of all processes."""
    said = torch.tensor(int(answer))
    if world() > 1:
        dist.broadcast(said, 0)
    return bool(said)


_OF_WORKERS = re.compile("shared memory|unable to mmap|killed by|exited unexpectedly|open files|ancdata")


def batches(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `loader`. Raises `InputError` if its processes cannot hand them over."""
    try:
        yield from loader
    except (OSError, RuntimeError) as error:
        if not loader.num_workers or (isinstance(error, RuntimeError) and not _OF_WORKERS.search(str(error))):
            raise
        reason = str(error).strip().splitlines()[-1]  # below the traceback of the process
        raise InputError(
            f"finetuned.workers: the {loader.num_workers} processes that decode photos share memory, which "
            f"failed ({reason}); set it to 0{_shared_memory()}"
        ) from None


def _shared_memory() -> str:
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:  # Linux alone has it
        return ""
    return f", or enlarge /dev/shm, which has {size >> 20} MB, as by docker run --shm-size=2g"


_came: list[int] = []


@contextmanager
def signals() -> Iterator[None]:
    """Remember which signals came: an exception is lost where it comes in a `__del__`.

    In what C++ calls it becomes another one; torch.save says "unexpected pos".
    """

    def stop(number: int, frame: FrameType | None) -> None:
        _came.append(number)
        terminate(number, frame)

    try:
        with terminable(stop, signal.SIGINT):
            yield
    except Exception:
        if _came:
            raise stopped_by(_came[0]) from None
        raise
    finally:
        _came.clear()


def raise_if_stopped() -> None:
    """Raise what a signal raised that came within `signals`, and was lost."""
    if _came:
        raise stopped_by(_came[0])
