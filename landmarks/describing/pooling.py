"""From a feature map to one vector: the poolings of the field.

x(c, y, x) is the map of channel c, (N, C, H, W) for N photos; each pooling makes (N, C) of it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from landmarks.errors import InputError

OVERLAP = 0.4
LEVELS = 3


class Average(nn.Module):
    """f_c = 1 / (H W) sum x(c, y, x).

    Known as SPoC (Babenko and Lempitsky, ICCV 2015), there with more weight on the middle of the photo.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C)."""
        return features.mean((2, 3))


class Maximum(nn.Module):
    """f_c = max x(c, y, x), also known as MAC (Tolias, Sicre and Jégou, ICLR 2016)."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C)."""
        return features.amax((2, 3))


class GeM(nn.Module):
    """f_c = (1 / (H W) sum x(c, y, x)^p)^(1 / p), the generalised mean.

    p = 1 averages, p towards infinity takes the maximum (Radenović, Tolias and Chum, TPAMI 2019). What is
    below 1e-6 counts as 1e-6, as in the code of the authors.
    """

    def __init__(self, p: float, learned: bool = False) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)), requires_grad=learned)

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C)."""
        pooled: Tensor = features.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)
        return pooled


class RMac(nn.Module):
    """f = unit(sum over regions R of unit(max over R of x)): R-MAC (Tolias, Sicre and Jégou, ICLR 2016).

    unit divides by the L2 norm. The regions are those of `regions`; whitening each is left out.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C)."""
        maxima = [
            nn.functional.normalize(features[:, :, top : top + side, left : left + side].amax((2, 3)))
            for top, left, side in regions(int(features.shape[2]), int(features.shape[3]))
        ]
        return nn.functional.normalize(torch.stack(maxima).sum(0))


def regions(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """The square regions of R-MAC in a map: top, left and side, at three levels l = 1, 2, 3.

    Sides are 2 min(H, W) / (l + 1), rounded down; l regions lie along the shorter side of the map, l + m - 1
    along the longer one, evenly. Of m = 2, 3, ... (1 for a square map) that one is taken for which
    neighbours at l = 1 overlap by closest to 40 %.
    """
    short, long = sorted((height, width))
    more = 0
    if long > short:
        overlap = {m: 1 - (long - short) / (m - 1) / short for m in range(2, 3 + 2 * long // short)}
        more = min(overlap, key=lambda m: abs(overlap[m] - OVERLAP)) - 1
    for level in range(1, LEVELS + 1):
        side = max(1, 2 * short // (level + 1))
        tops, lefts = (
            _starts(length - side, level + (more if length > short else 0)) for length in (height, width)
        )
        yield from ((top, left, side) for top in tops for left in lefts)


def _starts(room: int, count: int) -> list[int]:
    return [place * room // max(1, count - 1) for place in range(count)]


def pooling(name: str, gem_p: float, learned: bool = False) -> nn.Module:
    """The pooling `avg`, `max`, `gem` (with its p, perhaps `learned`) or `rmac`.

    >>> feature_map = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> [round(pooling(name, gem_p=3.0)(feature_map).item(), 3) for name in ("avg", "max", "gem")]
    [2.5, 4.0, 2.924]
    """
    made: dict[str, Callable[[], nn.Module]] = {
        "avg": Average,
        "max": Maximum,
        "gem": lambda: GeM(gem_p, learned),
        "rmac": RMac,
    }
    return made[name]()


class Pooled(nn.Module):
    """`net` up to a feature map, and a `pooling` of it, in place of the network's own pooled layer."""

    def __init__(self, net: nn.Module, layer: str | None, pooling: nn.Module, name: str) -> None:
        """`layer`: the module whose output is pooled, None for timm's last feature map; `name`: of `net`."""
        super().__init__()
        self.net, self.layer, self.pooling, self.name = net, layer, pooling, name

    def forward(self, photos: Tensor) -> Tensor:
        """(N, D) of normalised photos (N, 3, H, W). Raises `InputError` if there is no feature map."""
        features = self._features(photos)
        if features.ndim != 4 or str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC"):
            raise InputError(
                f"pooling: {self.name} has no feature map to pool at layer {self.layer or 'avgpool'}, its "
                f"output there is {tuple(features.shape)}; set pooling to avg and layer to avgpool"
            )
        pooled: Tensor = self.pooling(features.float())
        return pooled

    def _features(self, photos: Tensor) -> Tensor:
        if self.layer is None:
            features: Tensor = self.net.forward_features(photos)  # type: ignore[operator]
            return features
        reached: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            reached.append(output)

        hook = self.net.get_submodule(self.layer).register_forward_hook(keep)
        try:
            self.net(photos)
        finally:
            hook.remove()
        return reached[0]
