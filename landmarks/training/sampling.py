"""The photos that training sees, varied, and their order."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from landmarks.describing import trunks
from landmarks.params import Finetuned, Sampling
from landmarks.photos import images
from landmarks.photos.catalog import Photo
from landmarks.training.processes import rank, world


def derived_seed(*parts: int) -> int:
    """A seed that depends on all of `parts`."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class Photos(Dataset[tuple[Tensor, int]]):
    """Photos by (epoch, row): what is random about a photo depends only on these and the seed.

    So it is the same in whichever worker it is made, and whether or not training was interrupted. Rows go
    round: the row that is as many rows further on as there are photos is the same photo, varied otherwise.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        labels: Sequence[int],
        transform: v2.Transform,
        at_least: int,
        seed: int = 0,
    ) -> None:
        self.photos, self.labels, self.transform = photos, labels, transform
        self.at_least, self.seed = at_least, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, place = key
        row = place % len(self.photos)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, epoch, place))
            photo = self.transform(images.read(Path(self.photos[row].image_path), self.at_least))
        return photo, self.labels[row]


class Order(Sampler[tuple[int, int]]):
    """The (epoch, row) keys of an epoch for this process: shuffled in training, in order otherwise.

    With `together`, photos of a landmark come in groups of so many, which are spread evenly over the epoch.
    In training, a landmark fills its last group with its own photos once more; otherwise that group is
    smaller.

    `sampling` is that of Kang et al., "Decoupling representation and classifier for long-tailed recognition"
    (ICLR 2020). It does not change the number of groups in an epoch; the share of a landmark in them goes by
    the number of its own groups to the power 1, 1/2 or 0. A photo comes again when all photos of its landmark
    have come.
    """

    def __init__(
        self,
        labels: Sequence[int],
        seed: int | None,
        together: int | None = None,
        sampling: Sampling = "instance_balanced",
    ) -> None:
        self.labels, self.seed, self.together, self.epoch = np.asarray(labels), seed, together, 0
        self.sampling = sampling

    def __len__(self) -> int:
        return len(self._rows())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, int(row)) for row in self._rows())

    def _rows(self) -> NDArray[np.int64]:
        random = np.random.default_rng([self.seed or 0, self.epoch])
        if self.together or self.sampling != "instance_balanced":
            groups = self._groups(self.together or 1, random)
        elif self.seed is None:
            groups = np.arange(len(self.labels))[:, None]
        else:
            groups = random.permutation(len(self.labels))[:, None]
        if self.seed is not None:  # in training every process must take the same number of steps
            groups = np.resize(groups, (math.ceil(len(groups) / world()) * world(), groups.shape[1]))
        rows = groups[rank() :: world()].ravel()
        return rows[rows >= 0]

    def _groups(self, together: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Rows (groups, together), -1 for none."""
        groups, places = [], []
        _, sizes = np.unique(self.labels, return_counts=True)
        of_label = np.split(np.argsort(self.labels, kind="stable"), np.cumsum(sizes)[:-1])
        counts = self._sampled(-(-sizes // together), random)
        for ordered, size in zip(of_label, counts.tolist(), strict=True):
            rows = random.permutation(ordered)
            again, place = np.divmod(np.arange(size * together), len(rows))
            more = -1 if self.seed is None else rows[place] + again * len(self.labels)
            groups.append(np.where(again, more, rows[place]).reshape(size, together))
            places.append((np.arange(size) + random.random(size)) / size)
        return np.concatenate(groups)[np.argsort(np.concatenate(places))]

    def _sampled(self, counts: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        """How many groups each landmark gets, where `counts` hold its photos once: at least one."""
        if self.sampling == "instance_balanced":
            return counts
        ends = np.cumsum(np.sqrt(counts) if self.sampling == "square_root" else np.ones(len(counts)))
        # From a random start, so that what does not divide goes to other landmarks in another epoch.
        bounds = np.floor(counts.sum() * ends / ends[-1] + random.random()).astype(np.int64)
        sampled: NDArray[np.int64] = np.diff(bounds, prepend=0)
        return sampled


def augmentation(recipe: Finetuned) -> v2.Transform:
    """From a photo to the uint8 (3, S, S) that training sees, S being `recipe.train_size`.

    A random crop shows a thing larger than the whole photo of that size does, so photos are best described
    somewhat larger than S (Touvron, Vedaldi, Douze and Jégou, NeurIPS 2019).
    """
    colour = recipe.augment.colour
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(recipe.train_size, recipe.augment.scale, antialias=True),
            v2.RandomHorizontalFlip(0.5 if recipe.augment.flip else 0.0),
            v2.ColorJitter(colour, colour, colour),
        ]
    )


def whole_photo(options: trunks.Options) -> v2.Transform:
    """From a photo to the uint8 (3, S, S) that extraction describes.

    Photos that keep their aspect make no batches; they are stretched.
    """
    views = options.views()
    resize = views.resize if views.fixed else "stretch"
    fit = partial(images.fitted, size=views.size, resize=resize, fill=views.fill)
    return v2.Compose([v2.Lambda(fit), v2.PILToTensor()])
