"""What is trained: a trunk under a classifier or a loss of metric learning, and how its weights change."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landmarks.describing.pooling import GeM
from landmarks.describing.trunks import Trunk
from landmarks.errors import InputError
from landmarks.params import Finetuned
from landmarks.training import losses
from landmarks.training.processes import world


class Classifier(nn.Module):
    """A trunk and a linear layer on its pooled output."""

    def __init__(self, trunk: nn.Module, head: nn.Linear, smoothing: float = 0.0) -> None:
        """`smoothing`: of the labels, in training."""
        super().__init__()
        self.trunk, self.head, self.smoothing = trunk, head, smoothing

    def forward(self, photos: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy, and the logits (N, classes), of normalised photos (N, 3, H, W)."""
        logits = self.head(self.trunk(photos)).float()
        smoothing = self.smoothing if self.training else 0.0
        return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing), logits


class Embedder(nn.Module):
    """A trunk with a loss of metric learning on its pooled output, and a head of class means.

    The head has one row for each class, which is the mean of the unit embeddings of its photos in the last
    epoch, scaled to unit length. It has no bias: it ranks the classes by the cosine to their means. It is not
    learned.
    """

    def __init__(self, trunk: nn.Module, head: nn.Linear, loss: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head, self.loss = trunk, head.requires_grad_(False), loss
        # Neither parameter nor buffer, which DistributedDataParallel would make the same everywhere.
        self.sums = torch.zeros_like(head.weight)
        self.count = 0

    def forward(self, photos: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the cosines (N, classes) to the means, of normalised photos (N, 3, H, W).

        In training the means are those of the photos so far in the epoch, these included.
        """
        embeddings = self.trunk(photos)
        with torch.no_grad(), torch.autocast(photos.device.type, enabled=False):
            units = nn.functional.normalize(embeddings.float())
            if self.training:
                self.sums = self.sums.to(units).index_add_(0, labels, units)
                self.count += len(units)
                cosines = units @ nn.functional.normalize(self.sums).T
            else:
                cosines = self.head(units)
        return self.loss(embeddings, labels), cosines

    def end_epoch(self) -> float:
        """Take the means of all processes into the head.

        Returns the mean cosine of two photos of the epoch, which is 1 where all embeddings coincide.
        """
        sums, count = self.sums.double().cpu(), torch.tensor(self.count)
        if world() > 1:
            dist.all_reduce(sums)
            dist.all_reduce(count)
        self.head.weight.copy_(nn.functional.normalize(sums))
        self.sums, self.count = torch.zeros_like(self.sums), 0
        return float((sums.sum(dim=0) / count).square().sum())


def learner(trunk: Trunk, recipe: Finetuned, classes: int) -> Classifier | Embedder:
    """What `recipe.loss` trains: `trunk` with a new head for so many classes."""
    if recipe.loss == "cross_entropy":
        return Classifier(trunk.net, nn.Linear(trunk.dimensions, classes), recipe.label_smoothing)
    head = nn.Linear(trunk.dimensions, classes, bias=False)
    return Embedder(trunk.net, head, losses.MetricLoss(recipe, trunk.dimensions, classes))


def freeze(trunk: nn.Module, frozen: int) -> None:
    """Leave the first `frozen` parameter tensors of `trunk` out of training."""
    parameters = list(trunk.parameters())
    if frozen > len(parameters):
        raise InputError(
            f"finetuned.frozen: {frozen} is more than the {len(parameters)} parameter tensors of the trunk"
        )
    for parameter in parameters[:frozen]:
        parameter.requires_grad = False


def frozen_norms(net: nn.Module, batch_norm: str) -> list[nn.Module]:
    """The BatchNorms whose statistics must not move: all, or only those whose weights are frozen."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    return [
        norm for norm in norms if batch_norm == "frozen" or (norm.affine and not norm.weight.requires_grad)
    ]


def make_optimizer(net: nn.Module, recipe: Finetuned) -> torch.optim.Optimizer:
    """The optimizer of the parameters of `net` that are not frozen; a p of GeM does not decay."""
    powers = {id(module.p) for module in net.modules() if isinstance(module, GeM)}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [one for one in trained if id(one) not in powers]}]
    if len(groups[0]["params"]) < len(trained):
        groups.append({"params": [one for one in trained if id(one) in powers], "weight_decay": 0.0})
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)


def learning_rate(epoch: int, recipe: Finetuned) -> float:
    """The rate of `epoch`, counted from 0: `recipe.schedule` after a linear warm-up."""
    if epoch < recipe.warmup_epochs:
        return recipe.lr * (epoch + 1) / (recipe.warmup_epochs + 1)
    if recipe.schedule == "step":
        return float(recipe.lr * 0.1 ** (epoch // recipe.step_epochs))
    if recipe.schedule == "cosine":
        done = (epoch - recipe.warmup_epochs) / max(1, recipe.epochs - recipe.warmup_epochs)
        return recipe.lr * (1 + math.cos(math.pi * done)) / 2
    return recipe.lr
