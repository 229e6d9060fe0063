"""Running a network over photos: by PyTorch or OpenVINO, in float32 or bfloat16, on the CPU or a GPU."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from threading import Lock, local

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landmarks.cores import CORES
from landmarks.errors import InputError
from landmarks.photos import images

if "OMP_NUM_THREADS" not in os.environ:
    # torch knows the cores of the machine, not the quota of a container.
    torch.set_num_threads(min(torch.get_num_threads(), CORES))


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
    net: Photos, photos: Sequence[images.Source], views: images.Views, batch_size: int, execution: Execution
) -> Iterator[NDArray[np.float32]]:
    """The outputs of `net` for the V `views` of `photos`: float32 (batch, V, D), in the order of both.

    Photos are decoded in threads while the network runs. Raises `InputError` if there is no such device
    or the network does not convert.
    """
    device = _device(execution)
    if execution.engine == "openvino" and device.type == "cpu":
        return _by_openvino(net, photos, views, batch_size, execution.precision)
    return _by_torch(net, photos, views, batch_size, execution.precision, device)


def _device(execution: Execution) -> torch.device:
    available = torch.cuda.is_available()
    if execution.device == "cuda" and not available:
        raise InputError("extract.device: cuda, but torch finds no GPU; set it to auto or cpu")
    return torch.device("cuda" if available and execution.device != "cpu" else "cpu")


def _by_torch(
    net: Photos,
    photos: Sequence[images.Source],
    views: images.Views,
    batch_size: int,
    precision: str,
    device: torch.device,
) -> Iterator[NDArray[np.float32]]:
    net = net.to(device).to(memory_format=torch.channels_last)

    def outputs(shown: list[NDArray[np.uint8]]) -> Tensor:
        pixels = torch.from_numpy(np.stack(shown))
        if device.type == "cuda":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        with torch.inference_mode(), bfloat16:
            output: Tensor = net(pixels).float()
        return output

    count = views.count
    before: list[tuple[list[int], Tensor]] | None = None
    for batch in images.batches(photos, views, batch_size):
        by_shape: dict[tuple[int, ...], list[int]] = {}
        shown = [view for photo in batch for view in photo]
        for row, view in enumerate(shown):
            by_shape.setdefault(view.shape, []).append(row)
        found = [(rows, outputs([shown[row] for row in rows])) for rows in by_shape.values()]
        # A GPU works on this batch while the one before is fetched and the next one decoded.
        if before is not None:
            yield _in_rows(before, count)
        before = found
    if before is not None:
        yield _in_rows(before, count)


def _in_rows(groups: list[tuple[list[int], Tensor]], views: int) -> NDArray[np.float32]:
    """The outputs of the groups of a batch, each output in its own row: (batch, views, D)."""
    order = np.argsort(np.concatenate([rows for rows, _ in groups]))
    outputs: NDArray[np.float32] = np.concatenate([outputs.cpu().numpy() for _, outputs in groups])
    return outputs[order].reshape(-1, views, outputs.shape[1])


def _by_openvino(
    net: Photos, photos: Sequence[images.Source], views: images.Views, batch_size: int, precision: str
) -> Iterator[NDArray[np.float32]]:
    """One photo per core at a time: as fast as batches, and no core waits for another one."""
    net = net.cpu()
    if views.fixed:
        networks = {size: openvino(net, size, precision) for size in views.sizes}
    else:
        network = openvino(net, max(views.sizes), precision, fixed=False)
        networks = dict.fromkeys(views.sizes, network)

    def outputs_of(photo: images.Source) -> NDArray[np.float32]:
        return np.stack([networks[max(view.shape)](view) for view in views.of(photo)])

    outputs = images.in_order(outputs_of, photos, 2 * CORES)
    while batch := list(islice(outputs, batch_size)):
        yield np.stack(batch)


@lru_cache(maxsize=8)
def openvino(
    net: Photos, size: int, precision: str, fixed: bool = True
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """`net` compiled by OpenVINO: from a photo, uint8 (size, size, 3), to its output, float32 (D,).

    If the size is not `fixed`, a photo may have any height and width. The function may be called in several
    threads at a time. The last functions, such as those of one `net` at several scales, are kept with the
    weights that it had, so that photos described one by one do not wait for it to be compiled again. Raises
    `InputError` if the network does not convert.
    """
    # Its converter tells its maker that it was used unless this module is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov
    from openvino.frontend import OpConversionFailure

    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    shape = list(example.shape) if fixed else [1, -1, -1, 3]
    try:
        with torch.no_grad(), _converting():
            model = ov.convert_model(net, example_input=example, input=[shape])
    except (RuntimeError, OpConversionFailure) as error:
        reason = str(error).strip().splitlines()[-1].strip(" -")
        raise InputError(
            f"extract.engine: openvino does not take this network ({reason}); set it to torch"
        ) from None
    settings = {
        # Without the hint, processors with AMX would silently use bfloat16.
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "NUM_STREAMS": CORES,
        "INFERENCE_NUM_THREADS": CORES,
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    requests = local()

    def network(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        output: NDArray[np.float32] = requests.own.infer([photo[None]])[0][0].copy()
        return output

    if not fixed and precision == "float32":
        _check_sizes(net, network, size)
    elif not fixed:  # bfloat16 is too coarse to tell
        openvino(net, size, "float32", fixed=False)
    return network


_one_at_a_time = Lock()


@contextmanager
def _converting() -> Iterator[None]:
    """Alone, for tracing cannot be done twice at a time; and what it does to logs and warnings is undone."""
    root = logging.getLogger()
    with _one_at_a_time:
        level, filters, handlers = root.level, root.filters[:], root.handlers[:]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing, for the maker of the network
                yield
        finally:  # which the converter does where it succeeds
            root.setLevel(level)
            root.filters, root.handlers = filters, handlers


def _check_sizes(net: Photos, network: Callable[[NDArray[np.uint8]], NDArray[np.float32]], size: int) -> None:
    """Refuse a `network` in which the conversion fixed what depends on the size of a photo."""
    photo = np.random.default_rng(0).integers(0, 256, (size // 2, size, 3), np.uint8)
    with torch.inference_mode():
        expected = net(torch.from_numpy(photo[None])).numpy()[0]
    try:
        found = network(photo)
    except RuntimeError:
        found = np.zeros_like(expected)
    cosine = found @ expected / max(np.linalg.norm(found) * np.linalg.norm(expected), 1e-12)
    if cosine < 0.99999:
        raise InputError(
            "extract.engine: openvino does not take this network with photos of any size (resize: keep); "
            "set it to torch"
        )
