"""The networks: by name, with their weights, their preprocessing and their pooled layer."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import timm
import torch
import torchvision
from numpy.typing import NDArray
from timm.data.config import resolve_data_config
from torch import nn

from landmarks.describing import engines
from landmarks.describing import weights as files
from landmarks.describing.engines import Execution, Photos
from landmarks.describing.pooling import Pooled, pooling
from landmarks.describing.weights import HEAD, LITE0, RESNETS, first_line
from landmarks.errors import InputError
from landmarks.photos import images


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

        A descriptor is the output of the pooled layer, joined over the views if there are several, and
        normalised.
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

    Gordo, Almazán, Revaud and Larlus (IJCV 2017) join scales in this way, and so do Radenović, Tolias and
    Chum (TPAMI 2019) for p = 1.
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

    `settings`: those of the other fields of `Options` that differ from their defaults. `learn_gem_p`: whether
    training may change the p of GeM. Raises `InputError` if there is no such network, layer or file, the
    tensors do not fit, the download fails, the network does not take photos of `image_size`, or it has no
    feature map to pool.
    """
    torch.manual_seed(seed)
    net = build(backbone)
    if weights == "imagenet":
        files.load(net, files.imagenet(backbone), f"the ImageNet weights of {backbone}")
    elif weights != "random":
        files.load(net, files.read(Path(weights)), weights)
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


def _statistics(backbone: str, net: nn.Module) -> tuple[Any, Any]:
    if backbone in RESNETS:
        return timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    if backbone == LITE0:  # the published weights are the ones converted from TensorFlow
        return timm.data.IMAGENET_INCEPTION_MEAN, timm.data.IMAGENET_INCEPTION_STD
    config: dict[str, Any] = resolve_data_config(model=net)  # type: ignore[no-untyped-call]
    return config["mean"], config["std"]


def check_size(net: nn.Module, backbone: str, size: int, parameter: str, height: int | None = None) -> int:
    """The length of what `net` makes of photos of `size`; raises `InputError` if it takes none.

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
