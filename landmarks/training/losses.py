"""The losses of metric learning by name: those of pytorch-metric-learning, set as in their papers.

Embeddings x_i of a batch of N photos are L2-normalised, y_i is the landmark of photo i, s a cosine, d a
Euclidean distance, and [.]+ is max(0, .).
"""

import math
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from landmarks.params import Finetuned

LIBRARY_VERSION = version("pytorch-metric-learning")
"""The library itself takes a second to import, so it is only where one of its losses is asked for."""


class MetricLoss(nn.Module):
    """The loss that `recipe.loss` names, of the pairs or triplets that `recipe.miner` chooses.

    If there are several processes, each compares the photos of its own batch.

    In the example are two triplets: an anchor, the other photo of its landmark, and one of another. Their
    squared distances are 0.8 and 2, then 0.8 and 0.4. With a margin of 0.2 the first loses 0, the second 0.6.

    >>> from landmarks import params
    >>> recipe = params.load().finetuned.model_copy(update={"loss": "triplet", "margin": 0.2})
    >>> embeddings = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    >>> round(MetricLoss(recipe, dimensions=2, classes=2)(embeddings, torch.tensor([0, 0, 1])).item(), 3)
    0.6
    """

    def __init__(self, recipe: Finetuned, dimensions: int, classes: int) -> None:
        super().__init__()
        self.loss = LOSSES[recipe.loss](recipe, dimensions, classes)
        self.miner = MINERS[recipe.miner](recipe) if recipe.miner != "none" else None

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, of embeddings (N, D) of any length and labels (N,).

        Nothing is mined in evaluation mode: validation losses are of all pairs and compare between epochs.
        """
        # Cosines and distances that differ by less than bfloat16 tells apart matter.
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.float()
            mined = self.miner(embeddings, labels) if self.miner and self.training else None
            loss: Tensor = self.loss(embeddings, labels, mined)
        return loss


def _arcface(recipe: Finetuned, dimensions: int, classes: int) -> Any:
    """Mean of -log(e^(s cos(t_y + m)) / (e^(s cos(t_y + m)) + sum over j != y of e^(s cos t_j))).

    t_j is the angle between x and the weights of class j, m = 0.5, s = 64. Where t_y + m is above pi, where
    the cosine would rise again, cos t_y - m sin m takes its place, as in the authors' code. Deng, Guo, Xue
    and Zafeiriou, ArcFace: additive angular margin loss for deep face recognition, CVPR 2019, eq. 3.
    """
    from pytorch_metric_learning.losses import ArcFaceLoss

    degrees = math.degrees(_or(recipe.margin, 0.5))
    scale = _or(recipe.scale, 64.0)
    return ArcFaceLoss(classes, dimensions, margin=degrees, scale=scale, weight_init_func=_unit_length)


def _cosface(recipe: Finetuned, dimensions: int, classes: int) -> Any:
    """Mean of -log(e^(s (cos t_y - m)) / (e^(s (cos t_y - m)) + sum over j != y of e^(s cos t_j))).

    As in `_arcface`, m = 0.35, s = 64. Wang, Wang, Zhou, Ji, Gong, Zhou, Li and Liu, CosFace: large margin
    cosine loss for deep face recognition, CVPR 2018, eq. 4.
    """
    from pytorch_metric_learning.losses import CosFaceLoss

    margin, scale = _or(recipe.margin, 0.35), _or(recipe.scale, 64.0)
    return CosFaceLoss(classes, dimensions, margin=margin, scale=scale, weight_init_func=_unit_length)


def _proxy_anchor(recipe: Finetuned, dimensions: int, classes: int) -> Any:
    """Mean over the proxies p with photos of log(1 + sum over these photos of e^(-a (s(x, p) - m))).

    Plus the mean over all proxies of log(1 + sum over the photos of other classes of e^(a (s(x, p) + m)));
    a class has one proxy, m = 0.1, a = 32 (`scale`). Kim, Kim, Cho and Kwak, Proxy Anchor loss for deep
    metric learning, CVPR 2020, eq. 4.
    """
    from pytorch_metric_learning.losses import ProxyAnchorLoss

    return ProxyAnchorLoss(classes, dimensions, margin=_or(recipe.margin, 0.1), alpha=_or(recipe.scale, 32.0))


def _triplet(recipe: Finetuned, _dimensions: int, _classes: int) -> Any:
    """Mean of [d(a, p)^2 - d(a, n)^2 + m]+ over the triplets for which it is above 0; m = 0.2.

    Schroff, Kalenichenko and Philbin, FaceNet: a unified embedding for face recognition and clustering,
    CVPR 2015, section 3.1, where it is the sum. As training goes on ever fewer triplets are above 0, and in
    a mean over all the rest would drown them.
    """
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss

    return TripletMarginLoss(_or(recipe.margin, 0.2), distance=LpDistance(power=2))


def _contrastive(recipe: Finetuned, _dimensions: int, _classes: int) -> Any:
    """Mean of d^2 / 2 over pairs of one landmark, plus mean of [m - d]+^2 / 2 over others where above 0.

    m = 1 is the library's, the paper has none for all. Hadsell, Chopra and LeCun, Dimensionality reduction by
    learning an invariant mapping, CVPR 2006, eq. 4, which is of one pair.
    """
    from pytorch_metric_learning.losses import ContrastiveLoss

    class Squared(ContrastiveLoss):  # type: ignore[misc]
        """The library's own is not squared."""

        def get_per_pair_loss(self, pair_dists: Tensor, pos_or_neg: str) -> Tensor:
            loss: Tensor = super().get_per_pair_loss(pair_dists, pos_or_neg) ** 2 / 2
            return loss

    return Squared(neg_margin=_or(recipe.margin, 1.0))


def _multi_similarity(recipe: Finetuned, _dimensions: int, _classes: int) -> Any:
    """Mean of log(1 + sum over P of e^(-2 (s - m))) / 2 + log(1 + sum over N of e^(50 (s - m))) / 50.

    P are the other photos of the landmark, N those of other landmarks. m = 0.5 is that of the authors' code,
    the paper has 1. Wang, Han, Huang, Dong and Scott, Multi-similarity loss with general pair weighting for
    deep metric learning, CVPR 2019, eq. 15.
    """
    from pytorch_metric_learning.losses import MultiSimilarityLoss

    return MultiSimilarityLoss(alpha=2, beta=50, base=_or(recipe.margin, 0.5))


def _batch_hard(_recipe: Finetuned) -> Any:
    """For each photo the farthest of its landmark and the nearest of the others.

    Hermans, Beyer and Leibe, In defense of the triplet loss for person re-identification, arXiv 2017, eq. 5.
    """
    from pytorch_metric_learning.miners import BatchHardMiner

    return BatchHardMiner()


def _distance_weighted(_recipe: Finetuned) -> Any:
    """Negatives drawn with odds that undo how rare their distance is on a sphere.

    Wu, Manmatha, Smola and Krähenbühl, Sampling matters in deep embedding learning, ICCV 2017, section 4.
    """
    from pytorch_metric_learning.miners import DistanceWeightedMiner

    return DistanceWeightedMiner()


def _multi_similarity_miner(_recipe: Finetuned) -> Any:
    """Pairs of other landmarks with s > min of own - 0.1, and own ones with s < max of others + 0.1.

    Wang, Han, Huang, Dong and Scott, CVPR 2019, eq. 10 and 11.
    """
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    return MultiSimilarityMiner(epsilon=0.1)


def _triplet_margin(recipe: Finetuned) -> Any:
    """The semi-hard triplets: d(a, p)^2 < d(a, n)^2 < d(a, p)^2 + m, with the m of `_triplet`.

    Schroff, Kalenichenko and Philbin, CVPR 2015, section 3.2.
    """
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.miners import TripletMarginMiner

    margin = _or(recipe.margin, 0.2)
    return TripletMarginMiner(margin, type_of_triplets="semihard", distance=LpDistance(power=2))


def _unit_length(weights: Tensor) -> None:
    """Start the weights (D, C) of classes in random directions, at a length of about 1.

    Their gradient goes by the inverse of their length: at the library's, about the root of D, they hardly
    move.
    """
    nn.init.normal_(weights, std=len(weights) ** -0.5)


def _or(value: float | None, usual: float) -> float:
    return usual if value is None else value


LOSSES = {
    "arcface": _arcface,
    "cosface": _cosface,
    "proxy_anchor": _proxy_anchor,
    "triplet": _triplet,
    "contrastive": _contrastive,
    "multi_similarity": _multi_similarity,
}
MINERS = {
    "batch_hard": _batch_hard,
    "distance_weighted": _distance_weighted,
    "multi_similarity": _multi_similarity_miner,
    "triplet_margin": _triplet_margin,
}
