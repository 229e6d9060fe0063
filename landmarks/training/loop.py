"""Fine-tuning a trunk to tell landmarks apart, epoch by epoch."""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from landmarks.describing import engines, trunks
from landmarks.describing.describers import Whitened
from landmarks.describing.pooling import GeM, Pooled
from landmarks.errors import InputError
from landmarks.params import OF_PAIRS, Finetuned
from landmarks.photos.catalog import Photo, numbered
from landmarks.progress import tqdm
from landmarks.training import checkpoints as saved
from landmarks.training.checkpoints import BEST, LAST, Checkpoint
from landmarks.training.events import Epoch
from landmarks.training.learners import (
    Classifier,
    Embedder,
    freeze,
    frozen_norms,
    learner,
    learning_rate,
    make_optimizer,
)
from landmarks.training.processes import batches, raise_if_stopped, rank, signals, world
from landmarks.training.sampling import Order, Photos, augmentation, derived_seed, whole_photo

log = logging.getLogger(__name__)

COLLAPSED = 0.99
"""Above this mean cosine of two photos, embeddings tell nothing apart any more."""


class Training:
    """A fine-tuning: `resume`, then iterate over `epochs`, then take the `result`.

    Nothing random carries over from one epoch to the next (each is seeded by its number), so weights,
    optimizer and history are all that going on needs. Raises `InputError` if there are fewer than
    two classes, no validation photos, or more frozen tensors than the trunk has.
    """

    def __init__(
        self,
        trunk: trunks.Trunk,
        train: Sequence[Photo],
        val: Sequence[Photo],
        recipe: Finetuned,
        seed: int,
        checkpoints: Path,
    ) -> None:
        """`checkpoints`: a folder for them, named by the `identity` of the run."""
        self.recipe, self.seed, self.checkpoints, self.options = recipe, seed, checkpoints, trunk.options
        self.classes, labels = numbered([photo.class_image for photo in train])
        known = [photo for photo in val if photo.class_image in self.classes]
        _check(self.classes, len(train), len(known))
        if len(known) < len(val):
            log.warning(
                "%d validation photos are of landmarks without training photos", len(val) - len(known)
            )
        number = {name: place for place, name in enumerate(self.classes)}
        val_labels = [number[photo.class_image] for photo in known]
        self.train = Photos(train, labels.tolist(), augmentation(recipe), 2 * recipe.train_size, seed)
        self.train_order = Order(labels.tolist(), seed, recipe.together, recipe.sampling)
        self.train_loader = self._loader(self.train, self.train_order)
        val_photos = Photos(known, val_labels, whole_photo(self.options), 2 * self.options.image_size)
        self.val_loader = self._loader(val_photos, Order(val_labels, None, recipe.together))

        trunks.check_size(trunk.net, self.options.backbone, recipe.train_size, "finetuned.train_size")
        self.device = torch.device("cuda", rank()) if torch.cuda.is_available() else torch.device("cpu")
        torch.manual_seed(seed)
        self.net = learner(trunk, recipe, len(self.classes)).to(self.device)
        self.net = self.net.to(memory_format=torch.channels_last)
        freeze(self.net.trunk, recipe.frozen)
        if not any(parameter.requires_grad for parameter in self.net.parameters()):
            raise InputError(
                f"finetuned.frozen: {recipe.frozen} leaves nothing to train by {recipe.loss}; lower it"
            )
        self.model = DistributedDataParallel(self.net) if world() > 1 else self.net
        self.optimizer = make_optimizer(self.net, recipe)
        self.history: list[Epoch] = []
        self.best = 0
        """The place in `history` of the epoch that did best on the validation photos."""
        self.checkpoint: Path | None = None
        """The newest there is."""

    def _loader(self, photos: Photos, order: Order) -> DataLoader[tuple[Tensor, int]]:
        # A last batch of one photo has no variance for BatchNorm to divide by; groups are of two or more.
        alone = order.seed is not None and not order.together
        drop = alone and len(order) > self.recipe.batch_size
        return DataLoader(
            photos, self.recipe.batch_size, sampler=order, num_workers=self.recipe.workers, drop_last=drop
        )

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole and of this run, if there is one.

        Raises `InputError` if the checkpoint of the best epoch, which is to be kept, is missing beside it.
        """
        if newest := saved.newest(self.checkpoints, self.recipe.keep == "best"):
            self._take(newest)
            log.info("going on after epoch %d of %s", len(self.history), newest.path)

    def epochs(self) -> Iterator[Epoch]:
        """Train, epoch by epoch; first yields the epochs that a checkpoint remembers."""
        yield from self.history
        with self._explained(), signals():
            for number in range(len(self.history), self.recipe.epochs):
                yield self._epoch(number)

    def sample(self, count: int = 64) -> list[Tensor]:
        """Training photos as the network sees them in the first epoch: uint8 (3, S, S)."""
        return [self.train[0, row][0] for row in range(min(count, len(self.train.photos)))]

    def result(self) -> trunks.Trunk:
        """The trunk and its head after the epoch to keep."""
        if world() > 1:
            dist.barrier()
        if self.recipe.keep == "best":
            self._take(saved.best_of(self.checkpoints, self.history, self.best))
        log.info("the model is that of epoch %d", len(self.history))
        options, trunk = self.options, self.net.trunk
        if isinstance(trunk, Pooled) and isinstance(trunk.pooling, GeM):
            options = replace(options, gem_p=trunk.pooling.p.item())
        return trunks.Trunk(trunk, options, trunks.Head(self.net.head, tuple(self.classes)))

    def _epoch(self, number: int) -> Epoch:
        rate = learning_rate(number, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.train_order.epoch = number
        torch.manual_seed(derived_seed(self.seed, number, rank()))
        name = f"epoch {number + 1}/{self.recipe.epochs}"
        trained = one_pass(self.model, self.train_loader, self.options, name, self.recipe, self.optimizer)
        if isinstance(self.net, Embedder) and (alike := self.net.end_epoch()) > COLLAPSED:
            log.warning(
                "%s: the embeddings of all photos nearly coincide (mean cosine %.4f); lower finetuned.lr "
                "(%g) or change finetuned.margin or finetuned.%s",
                *(name, alike, self.recipe.lr, "miner" if self.recipe.loss in OF_PAIRS else "scale"),
            )
        validated = one_pass(self.net, self.val_loader, self.options, f"{name}, validation", self.recipe)
        epoch = Epoch(number + 1, rate, *trained, *validated)
        self.history.append(epoch)
        log.info(
            "%s: learning rate %.3g, loss %.4f, Prec@1 %.3f, validation loss %.4f, Prec@1 %.3f",
            *(name, rate, *trained[:2], *validated[:2]),
        )
        if number == 0 or _quality(epoch) > _quality(self.history[self.best]):
            self.best = number
            self._save(self.checkpoints / BEST)
        if epoch.epoch % self.recipe.checkpoint_every == 0 or epoch.epoch == self.recipe.epochs:
            self._save(self.checkpoints / LAST)
        return epoch

    def _save(self, path: Path) -> None:
        if rank():
            return
        run, net, optimizer = self.checkpoints.name, self.net.state_dict(), self.optimizer.state_dict()
        saved.write(Checkpoint(path, run, net, optimizer, self.history, self.best), self.classes)
        self.checkpoint = path

    def _take(self, checkpoint: Checkpoint) -> None:
        self.net.load_state_dict(checkpoint.net)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.history, self.best, self.checkpoint = checkpoint.history, checkpoint.best, checkpoint.path

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt as stop:
            last = self.checkpoint or "not yet there"
            stop.add_note(f"the last checkpoint is {last}, run again to go on")
            raise
        except InputError as error:
            # One raised in a worker process comes with the traceback of that process as its message.
            raise InputError(str(error).strip().rpartition("InputError: ")[2]) from None
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
                raise
            raise InputError(
                f"finetuned: out of memory; lower finetuned.batch_size ({self.recipe.batch_size}) or "
                f"finetuned.train_size ({self.recipe.train_size})"
            ) from None


def one_pass(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, int]],
    options: trunks.Options,
    name: str,
    recipe: Finetuned,
    optimizer: torch.optim.Optimizer | None = None,
) -> tuple[float, float, float]:
    """Go through `loader` once, training where there is an `optimizer`: the loss, Prec@1 and Prec@5.

    They are means over the photos of all processes. Raises `InputError` if the loss is not finite.
    """
    training = optimizer is not None
    device = next(model.parameters()).device
    model.train(training)
    for norm in frozen_norms(model, recipe.batch_norm):
        norm.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    with tqdm(total=len(loader.sampler), desc=name, unit="photo", leave=False, disable=rank() > 0) as bar:  # type: ignore[arg-type]
        for step, (photos, labels) in enumerate(batches(loader), 1):
            photos, labels = photos.to(device), labels.to(device)
            with (
                torch.set_grad_enabled(training),
                torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"),
            ):
                loss, logits = model(
                    engines.normalize(photos.permute(0, 2, 3, 1), options.mean, options.std), labels
                )
            if not math.isfinite(loss.item()):
                raise InputError(
                    f"finetuned: the loss became {loss.item()} in {name}; lower finetuned.lr ({recipe.lr}), "
                    f"raise finetuned.warmup_epochs ({recipe.warmup_epochs}) or set precision: float32"
                )
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            raise_if_stopped()
            sums += torch.tensor([loss.item() * len(labels), *correct(logits, labels), len(labels)])
            bar.update(len(labels))
            if step % recipe.print_freq == 0:
                bar.set_postfix(loss=float(sums[0] / sums[3]), prec1=float(sums[1] / sums[3]))
    if world() > 1:
        dist.all_reduce(sums)
    loss_sum, first, fifth, count = sums.tolist()
    return loss_sum / count, first / count, fifth / count


def _check(classes: Sequence[str], train: int, val: int) -> None:
    if not train:
        raise InputError("data/splits/train.csv: no photos to train on; raise split.train, or add photos")
    if len(classes) < 2:
        raise InputError(
            f"data/splits/train.csv: {classes[0]} is the only landmark in it; training tells landmarks "
            "apart, so it needs two or more"
        )
    if not val:
        raise InputError(
            "data/splits/val.csv: no photos of the landmarks to be learned, to validate on; raise split.val, "
            "or add photos"
        )


def _quality(epoch: Epoch) -> tuple[float, float]:
    return epoch.val_precision_at_1, -epoch.val_loss


def evaluate(model: object, photos: Sequence[Photo], recipe: Finetuned) -> dict[str, float | int]:
    """Loss, Prec@1 and Prec@5 of a fine-tuned trunk on `photos`, and how many photos that were.

    A head of class means has no loss of its own.

    Raises `InputError` if `model` has no head, or none of the `photos` is of a class that it knows.
    """
    if isinstance(model, Whitened):
        model = model.model
    if not isinstance(model, trunks.Trunk) or not model.head:
        raise InputError("model: it has no classifier; make one with `dvc exp run -S model=finetuned`")
    linear, classes = model.head
    known = [photo for photo in photos if photo.class_image in classes]
    if not known:
        raise InputError(f"no photo of the {len(classes)} landmarks that the model knows in this part")
    if len(known) < len(photos):
        log.warning("%d photos are of landmarks that the model does not know", len(photos) - len(known))
    size = model.options.image_size
    labels = [classes.index(photo.class_image) for photo in known]
    loader = DataLoader(
        Photos(known, labels, whole_photo(model.options), 2 * size),
        recipe.batch_size,
        sampler=Order(labels, None),
        num_workers=recipe.workers,
    )
    net = Classifier(model.net, linear).to("cuda" if torch.cuda.is_available() else "cpu")
    loss, first, fifth = one_pass(net, loader, model.options, "evaluating", recipe)
    figures = {"prec@1": first, "prec@5": fifth, "photos": len(known)}
    return figures if linear.bias is None else {"loss": loss} | figures


def correct(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """How many labels (N,) are the first, and among the first five, of the logits (N, C)."""
    first = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return int(first[:, 0].sum()), int(first.sum())
