"""Running a network over photos: by PyTorch or OpenVINO, in float32 or bfloat16, on the CPU or a GPU."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from threading import local

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landmarks import images
from landmarks.errors import InputError


@dataclass(frozen=True)
class Execution:
    """How a network is run; it does not change what a descriptor means."""

    engine: str = "torch"
    """`torch` or `openvino`, which runs on the CPU; a GPU is always driven by torch."""
    precision: str = "float32"
    """`float32` or `bfloat16`."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU where there is one."""


class Photos(nn.Module):
    """`net` with what it expects of its input: from uint8 (N, H, W, 3), RGB, to its output."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """`mean`, `std`: as `normalize` takes them."""
        super().__init__()
        self.net, self.mean, self.std = net, mean, std

    def forward(self, photos: Tensor) -> Tensor:
        """The output of the network, from photos as they are decoded."""
        output: Tensor = self.net(normalize(photos, self.mean, self.std))
        return output


def normalize(photos: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn uint8 (N, H, W, 3) photos into the float32 (N, 3, H, W) that a network was trained on.

    `mean`, `std`: per channel, of values from 0 to 1.
    """
    centre, spread = (255 * torch.tensor(values, device=photos.device) for values in (mean, std))
    return ((photos - centre) / spread).permute(0, 3, 1, 2)


def run(
    net: Photos, photos: Sequence[images.Source], size: int, batch_size: int, execution: Execution
) -> Iterator[NDArray[np.float32]]:
    """The outputs of `net` for `photos` at `size` x `size` pixels: float32 (batch, D), in their order.

    Photos are decoded in threads while the network runs. Raises `InputError` where there is no such device
    or the network does not convert.
    """
    device = _device(execution)
    if execution.engine == "openvino" and device.type == "cpu":
        return _by_openvino(net, photos, size, batch_size, execution.precision)
    return _by_torch(net, photos, size, batch_size, execution.precision, device)


def _device(execution: Execution) -> torch.device:
    available = torch.cuda.is_available()
    if execution.device == "cuda" and not available:
        raise InputError("extract.device: cuda, but torch finds no GPU; set it to auto or cpu")
    return torch.device("cuda" if available and execution.device != "cpu" else "cpu")


def _by_torch(
    net: Photos,
    photos: Sequence[images.Source],
    size: int,
    batch_size: int,
    precision: str,
    device: torch.device,
) -> Iterator[NDArray[np.float32]]:
    net = net.to(device).to(memory_format=torch.channels_last)
    before: Tensor | None = None
    for batch in images.batches(photos, size, batch_size):
        pixels = torch.from_numpy(batch)
        if device.type == "cuda":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        with torch.inference_mode(), bfloat16:
            output = net(pixels).float()
        # A GPU works on this batch while the one before is fetched and the next one decoded.
        if before is not None:
            yield before.cpu().numpy()
        before = output
    if before is not None:
        yield before.cpu().numpy()


def _by_openvino(
    net: Photos, photos: Sequence[images.Source], size: int, batch_size: int, precision: str
) -> Iterator[NDArray[np.float32]]:
    """One photo a core at a time: as fast as batches, and no core waits for another one."""
    network = openvino(net.cpu(), size, precision)
    outputs = images.in_order(
        lambda photo: network(images.read_square(photo, size)), photos, 2 * len(os.sched_getaffinity(0))
    )
    while batch := list(islice(outputs, batch_size)):
        yield np.stack(batch)


@lru_cache(maxsize=1)
def openvino(net: Photos, size: int, precision: str) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """`net` compiled by OpenVINO: from a photo, uint8 (size, size, 3), to its output, float32 (D,).

    May be called in several threads at a time. That of the last `net` is kept with the weights that it had,
    so that photos described one by one do not wait for it to be compiled again.
    """
    # Its converter tells its maker that it was used unless this module is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov
    from openvino.frontend import OpConversionFailure

    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing, for the maker of the network
            model = ov.convert_model(net, example_input=example, input=[list(example.shape)])
    except (RuntimeError, OpConversionFailure) as error:
        reason = str(error).strip().splitlines()[-1].strip(" -")
        raise InputError(
            f"extract.engine: openvino does not take this network ({reason}); set it to torch"
        ) from None
    cores = len(os.sched_getaffinity(0))
    settings = {
        # Without the hint, processors with AMX would silently use bfloat16.
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "NUM_STREAMS": cores,
        "INFERENCE_NUM_THREADS": cores,
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    requests = local()

    def network(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        output: NDArray[np.float32] = requests.own.infer([photo[None]])[0][0].copy()
        return output

    return network
