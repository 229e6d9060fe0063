"""From photos to descriptors: the one interface of all models, and the file that holds a model."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from xxhash import xxh3_128

from landmarks.describing.whitening import TENSORS, Whitening, learn_discriminative, learn_pca
from landmarks.errors import InputError
from landmarks.files import damaged, other_version, replacing, unreadable
from landmarks.photos.catalog import Photo, numbered
from landmarks.photos.images import Source

# safetensors writes several entries of metadata in an order that differs from run to run.
_ENTRY = "landmarks"
VERSION = 2
"""Of what stands under that key, with a checksum since then."""
BATCH_SIZE = 16

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Whitened:
    """A describer whose descriptors are whitened."""

    model: Describer
    whitening: Whitening
    method: str
    """`pca` or `learned`."""

    @property
    def dimensions(self) -> int:
        """The length of a whitened descriptor."""
        return len(self.whitening.projection)

    @property
    def kind(self) -> str:
        """That of the model."""
        return self.model.kind

    def describe(self, photos: Sequence[Source], batch_size: int) -> Iterator[NDArray[np.float32]]:
        """Blocks of float32 (n, dimensions), in the order of `photos`."""
        return map(self.whitening.apply, self.model.describe(photos, batch_size))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Those of the model and of the whitening."""
        own = {"mean": self.whitening.mean, "projection": self.whitening.projection}
        return self.model.tensors() | {f"{TENSORS}.{name}": array for name, array in own.items()}

    def settings(self) -> dict[str, Any]:
        """Those of the model, and the method."""
        return self.model.settings() | {"whitening": self.method}


def whitened(
    model: Describer, photos: Sequence[Photo], whitening: str, dimensions: int, power: float
) -> Describer:
    """`model` with a `whitening` to `dimensions` that is learned from `photos`, or as it is with `none`.

    `pca` to the `power`, or `learned` from the classes of the photos. Raises `InputError` if there are too
    few photos.
    """
    if whitening == "none":
        return model
    log.info("learning a whitening from %d photos", len(photos))
    blocks = list(model.describe([Path(photo.image_path) for photo in photos], BATCH_SIZE))
    vectors = np.concatenate([np.empty((0, model.dimensions), np.float32), *blocks])
    described = vectors.any(axis=1)
    classes = numbered([photo.class_image for photo in photos])[1][described]
    vectors, parameter = vectors[described], "extract.dimensions"
    if len(vectors) <= dimensions:
        raise InputError(
            f"{parameter}: {dimensions} are too many to whiten with {len(vectors)} training photos; "
            "lower it, raise split.train, or set extract.whitening to none"
        )
    if whitening == "pca":
        return Whitened(model, learn_pca(vectors, dimensions, power, parameter), whitening)
    return Whitened(model, learn_discriminative(vectors, classes, dimensions, parameter), whitening)


def write(path: Path, describer: Describer) -> None:
    """Write a model as safetensors; its kind and settings are JSON under one key of the metadata.

    With them are the version of this format, and the checksum of all else.
    """
    metadata: dict[str, Any] = {"kind": describer.kind, "settings": describer.settings(), "version": VERSION}
    tensors = describer.tensors()
    metadata["xxh3"] = _checksum(metadata, tensors)
    with replacing(path) as temporary:
        # Not save_file, whose error on a full disk is no OSError.
        temporary.write_bytes(save(tensors, {_ENTRY: json.dumps(metadata, sort_keys=True)}))


def _checksum(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = xxh3_128(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read(path: Path, **execution: str) -> Describer:
    """Read the model at `path`; a trunk is run by `execution`, the fields of `engines.Execution`.

    Raises `InputError` if the file is not a model of this pipeline, is damaged, or cannot be read.
    """
    try:
        path.open("rb").close()  # safetensors takes what it must not read for missing
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings, version = dict(metadata["settings"]), metadata.get("version", 1)
        told = metadata.pop("xxh3", None)
    except OSError as error:
        raise unreadable(path, error) from None
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a model of this pipeline ({error}); `dvc repro` makes one") from None
    if version != VERSION:
        raise other_version(path, version, VERSION)
    if told != _checksum(metadata, tensors):
        raise damaged(path)
    try:
        method = settings.pop("whitening", None)
        learned = [tensors.pop(f"{TENSORS}.{name}") for name in ("mean", "projection")] if method else []
        model = _restored(metadata["kind"], tensors, settings, execution)
        return Whitened(model, Whitening(*learned), method) if method else model
    except (LookupError, TypeError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(f"{path}: not a model of this pipeline ({reason}); `dvc repro` makes one") from None


def _restored(
    kind: str, tensors: dict[str, NDArray[Any]], settings: dict[str, Any], execution: dict[str, str]
) -> Describer:
    # Imported here since torch takes seconds and only trunks need it.
    if kind == "vlad":
        from landmarks.describing.vlad import Vlad

        return Vlad.restore(tensors, settings)
    from landmarks.describing.engines import Execution
    from landmarks.describing.trunks import Trunk

    trunk = Trunk.restore(tensors, settings)
    trunk.execution = Execution(**execution)
    return trunk
