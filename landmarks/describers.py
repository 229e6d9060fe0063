"""From photos to descriptors: the one interface of all models, and the file that holds a model."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from landmarks.errors import InputError
from landmarks.files import replacing
from landmarks.images import Source

# safetensors writes several entries of metadata in an order that differs from run to run.
_ENTRY = "landmarks"


class Describer(Protocol):
    """What turns photos into descriptors."""

    @property
    def dimensions(self) -> int:
        """D, the length of a descriptor."""

    @property
    def kind(self) -> str:
        """`resnet`, `timm` or `vlad`."""

    def describe(self, photos: Sequence[Source], batch_size: int) -> Iterator[NDArray[np.float32]]:
        """Blocks of float32 (n, dimensions), in the order of `photos`."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The numbers that the model has learned, by name."""

    def settings(self) -> dict[str, Any]:
        """Everything else that is needed to describe a photo, as JSON takes it."""


def write(path: Path, describer: Describer) -> None:
    """Write a model as safetensors; its kind and settings are JSON under one key of the metadata."""
    metadata = {"kind": describer.kind, "settings": describer.settings()}
    with replacing(path) as temporary:
        # Not save_file, whose error on a full disk is no OSError.
        temporary.write_bytes(save(describer.tensors(), {_ENTRY: json.dumps(metadata, sort_keys=True)}))


def read(path: Path, **execution: str) -> Describer:
    """Read the model at `path`; a trunk is run by `execution`, the fields of `engines.Execution`.

    Raises `InputError` where it is not a model of this pipeline.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `dvc repro` makes it") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a model of this pipeline ({error}); `dvc repro` makes one") from None
    try:
        # Imported here since torch takes seconds and only trunks need it.
        if metadata["kind"] == "vlad":
            from landmarks.vlad import Vlad

            return Vlad.restore(tensors, metadata["settings"])
        from landmarks.engines import Execution
        from landmarks.trunks import Trunk

        trunk = Trunk.restore(tensors, metadata["settings"])
        trunk.execution = Execution(**execution)
        return trunk
    except (LookupError, TypeError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(f"{path}: not a model of this pipeline ({reason}); `dvc repro` makes one") from None
