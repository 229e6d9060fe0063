"""Fine-tuning a trunk to tell landmarks apart, with checkpoints to go on from."""

import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime
from functools import partial
from itertools import chain, count
from pathlib import Path
from pickle import UnpicklingError
from time import sleep
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import PIL
import timm
import torch
import torch.distributed as dist
import torchvision
from filelock import BaseFileLock, FileLock, Timeout
from numpy.typing import NDArray
from tensorboardX import SummaryWriter
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2
from torchvision.utils import make_grid

from landmarks import engines, images, losses, pooling, tiffs, trunks
from landmarks.catalog import Photo, numbered
from landmarks.describers import Whitened
from landmarks.errors import InputError, stopped_by, terminable, terminate
from landmarks.files import explained, replacing, sha256
from landmarks.params import OF_PAIRS, Finetuned, Sampling
from landmarks.pooling import GeM, Pooled
from landmarks.progress import tqdm

LAST, BEST = "last.pt", "best.pt"
COLLAPSED = 0.99
"""Above this mean cosine of two photos, embeddings tell nothing apart any more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """A row of `reports/training.csv`; precisions are shares, Prec@5 is top-k of k < 5 classes."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_precision_at_1: float
    train_precision_at_5: float
    val_loss: float
    val_precision_at_1: float
    val_precision_at_5: float


COLUMNS = tuple(column.name for column in fields(Epoch))


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
    """A trunk whose pooled output a loss of metric learning is put on, and a head of class means.

    The head has a row for each class, the mean of the unit embeddings of its photos in the last epoch, scaled
    to unit length, and no bias: it ranks the classes by the cosine to their means. It is not learned.
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
        if _world() > 1:
            dist.all_reduce(sums)
            dist.all_reduce(count)
        self.head.weight.copy_(nn.functional.normalize(sums))
        self.sums, self.count = torch.zeros_like(self.sums), 0
        return float((sums.sum(dim=0) / count).square().sum())


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


class _Photos(Dataset[tuple[Tensor, int]]):
    """Photos by (epoch, row): what is random about one depends on these and the seed alone.

    So it is the same in whichever worker it is made, and whether or not training was interrupted. Rows go
    round: the one of as many photos further on is the same photo, varied otherwise.
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


def derived_seed(*parts: int) -> int:
    """A seed that depends on all of `parts`."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class _Order(Sampler[tuple[int, int]]):
    """The (epoch, row) keys of an epoch for this process: shuffled in training, in order otherwise.

    With `together`, photos of a landmark come in groups of so many, which are spread evenly over the epoch.
    In training, what a landmark lacks for its last group are photos of its own once more; otherwise the
    group is smaller.

    `sampling` is that of Kang et al., "Decoupling representation and classifier for long-tailed recognition"
    (ICLR 2020): of the groups of an epoch, whose number it leaves alone, the share of a landmark is that of
    its own groups to the power 1, 1/2 or 0. A photo comes once more when all of its landmark have come.
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
            groups = np.resize(groups, (math.ceil(len(groups) / _world()) * _world(), groups.shape[1]))
        rows = groups[_rank() :: _world()].ravel()
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


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


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


@contextmanager
def processes() -> Iterator[bool]:
    """Join the other processes where torchrun started several; whether this is the one that writes."""
    if "LOCAL_RANK" not in os.environ:
        yield True
        return
    if torch.cuda.is_available():
        rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if rank >= gpus:
            raise InputError(
                f"NPROC: {os.environ['LOCAL_WORLD_SIZE']} is more than the {gpus} GPUs there are"
            )
        torch.cuda.set_device(rank)
    # The figures of a pass are summed on the CPU, which NCCL alone does not do.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield _rank() == 0
    finally:
        dist.destroy_process_group()


def identity(train: Sequence[Photo], val: Sequence[Photo], parameters: dict[str, Any], weights: str) -> str:
    """A hash of everything that shapes the trained weights: photos, parameters, code and versions.

    Raises `InputError` where a photo is gone or cannot be read.
    """
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for photo in (*train, *val):
        try:
            digest.update(json.dumps([*photo, sha256(Path(photo.image_path))]).encode())
        except OSError as error:
            raise InputError(
                f"{photo.image_path}: gone or not readable ({error.strerror}); run `dvc repro` again"
            ) from None
    code = (__file__, losses.__file__, trunks.__file__, pooling.__file__, engines.__file__, images.__file__)
    for source in (*code, tiffs.__file__, *([weights] if Path(weights).is_file() else [])):
        digest.update(sha256(Path(source)).encode())
    versions = [module.__version__ for module in (torch, torchvision, timm, PIL)]
    versions.append(losses.LIBRARY_VERSION)
    digest.update(json.dumps([len(train), versions, _world(), torch.get_num_threads()]).encode())
    return digest.hexdigest()[:16]


@contextmanager
def alone(checkpoints: Path) -> Iterator[None]:
    """Wait until no other run works with this folder, for one would overwrite what the other goes on from.

    Where the file system has no locks there is nothing to wait for. Raises `InputError` where the folder
    cannot be made.
    """
    with explained(checkpoints):
        checkpoints.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoints / ".lock")
    waits = False
    while not _first_says(_acquired(lock) if _rank() == 0 else False):
        if not waits:
            log.info("%s: another run trains the same, waiting for its end", checkpoints)
        waits = True
        sleep(1)
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        log.debug("%s: not locked (%s)", lock.lock_file, error)
    return True


def _first_says(answer: bool) -> bool:
    """The answer of the first of all processes."""
    said = torch.tensor(int(answer))
    if _world() > 1:
        dist.broadcast(said, 0)
    return bool(said)


class _Checkpoint(NamedTuple):
    """What of a `Training` goes on."""

    path: Path
    run: str
    net: dict[str, Any]
    optimizer: dict[str, Any]
    history: list[Epoch]
    best: int


class Training:
    """A fine-tuning: `resume`, then iterate over `epochs`, then take the `result`.

    Nothing random carries over from one epoch to the next (each is seeded by its number), so weights,
    optimizer and history are all that going on needs. Raises `InputError` where there are fewer than
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
        self.train = _Photos(train, labels.tolist(), augmentation(recipe), 2 * recipe.train_size, seed)
        self.train_order = _Order(labels.tolist(), seed, recipe.together, recipe.sampling)
        self.train_loader = self._loader(self.train, self.train_order)
        val_photos = _Photos(known, val_labels, whole_photo(self.options), 2 * self.options.image_size)
        self.val_loader = self._loader(val_photos, _Order(val_labels, None, recipe.together))

        trunks.check_size(trunk.net, self.options.backbone, recipe.train_size, "finetuned.train_size")
        self.device = torch.device("cuda", _rank()) if torch.cuda.is_available() else torch.device("cpu")
        torch.manual_seed(seed)
        self.net = _learner(trunk, recipe, len(self.classes)).to(self.device)
        self.net = self.net.to(memory_format=torch.channels_last)
        freeze(self.net.trunk, recipe.frozen)
        if not any(parameter.requires_grad for parameter in self.net.parameters()):
            raise InputError(
                f"finetuned.frozen: {recipe.frozen} leaves nothing to train by {recipe.loss}; lower it"
            )
        self.model = DistributedDataParallel(self.net) if _world() > 1 else self.net
        self.optimizer = make_optimizer(self.net, recipe)
        self.history: list[Epoch] = []
        self.best = 0
        """The place in `history` of the epoch that did best on the validation photos."""
        self.checkpoint: Path | None = None
        """The newest there is."""

    def _loader(self, photos: "_Photos", order: "_Order") -> DataLoader[tuple[Tensor, int]]:
        # A last batch of one photo has no variance for BatchNorm to divide by; groups are of two or more.
        alone = order.seed is not None and not order.together
        drop = alone and len(order) > self.recipe.batch_size
        return DataLoader(
            photos, self.recipe.batch_size, sampler=order, num_workers=self.recipe.workers, drop_last=drop
        )

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole and of this run, if there is one.

        Raises `InputError` where that of the best epoch, which is to be kept, is missing beside it.
        """
        last, best = self._usable(LAST), self._usable(BEST)
        if last and best and not _of_one_run(last, best):
            log.warning("%s: not of one run with %s; left alone", last.path, BEST)
            last = None  # The best one needs no other: it was the best so far.
        if last and not best and self.recipe.keep == "best":
            self._best_of(last.history, last.best)
        newest = best if best and (not last or len(best.history) > len(last.history)) else last
        if newest:
            self._take(newest)
            log.info("going on after epoch %d of %s", len(self.history), newest.path)

    def _usable(self, name: str) -> "_Checkpoint | None":
        path = self.checkpoints / name
        try:
            return self._read(path)
        except InputError as error:
            if path.exists():
                log.warning("%s; left alone", error)
            return None

    def epochs(self) -> Iterator[Epoch]:
        """Train, epoch by epoch; first yields those that a checkpoint remembers."""
        yield from self.history
        with self._explained(), _signals():
            for number in range(len(self.history), self.recipe.epochs):
                yield self._epoch(number)

    def sample(self, count: int = 64) -> list[Tensor]:
        """Training photos as the network sees them in the first epoch: uint8 (3, S, S)."""
        return [self.train[0, row][0] for row in range(min(count, len(self.train.photos)))]

    def result(self) -> trunks.Trunk:
        """The trunk and its head after the epoch to keep."""
        if _world() > 1:
            dist.barrier()
        if self.recipe.keep == "best":
            self._take(self._best_of(self.history, self.best))
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
        torch.manual_seed(derived_seed(self.seed, number, _rank()))
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
        """Write a checkpoint, whole or not at all, even where the power fails."""
        if _rank():
            return
        state = {
            "run": self.checkpoints.name,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [astuple(epoch) for epoch in self.history],
            "best": self.best,
            "classes": self.classes,
        }
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        self.checkpoint = path

    def _read(self, path: Path) -> "_Checkpoint":
        """What `_save` wrote. Raises `InputError` where it is gone, broken, or of another run."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state["history"] = [Epoch(*row) for row in state["history"]]
            checkpoint = _Checkpoint(path, *(state[name] for name in _Checkpoint._fields[1:]))
        except FileNotFoundError:
            raise InputError(f"{path}: gone") from None
        except (*trunks.UNREADABLE, UnpicklingError) as error:
            raise InputError(f"{path}: broken ({trunks.first_line(error)})") from None
        if checkpoint.run != self.checkpoints.name:
            raise InputError(f"{path}: of another run ({checkpoint.run})")
        return checkpoint

    def _best_of(self, history: list[Epoch], best: int) -> "_Checkpoint":
        path = self.checkpoints / BEST
        advice = f"epoch {best + 1} was best; put its checkpoint back, or delete that folder to train anew"
        try:
            checkpoint = self._read(path)
        except InputError as error:
            raise InputError(f"{error}; {advice}") from None
        if checkpoint.history != history[: best + 1]:
            raise InputError(f"{path}: of another run; {advice}")
        return checkpoint

    def _take(self, checkpoint: "_Checkpoint") -> None:
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


_came: list[int] = []


@contextmanager
def _signals() -> Iterator[None]:
    """Remember which signals came: an exception is lost where it comes in a `__del__`.

    In what C++ calls it becomes another one; torch.save says "unexpected pos".
    """

    def stop(number: int, frame: FrameType | None) -> None:
        _came.append(number)
        terminate(number, frame)

    try:
        with terminable(stop, signal.SIGINT):
            yield
    except Exception:
        if _came:
            raise stopped_by(_came[0]) from None
        raise
    finally:
        _came.clear()


def _of_one_run(last: "_Checkpoint", best: "_Checkpoint") -> bool:
    """Whether `best` is of the best epoch that `last` knows of, or of a later one."""
    if len(best.history) > len(last.history):  # it was killed before the next `LAST`
        return best.history[: len(last.history)] == last.history
    return best.history == last.history[: last.best + 1]


def _learner(trunk: trunks.Trunk, recipe: Finetuned, classes: int) -> Classifier | Embedder:
    if recipe.loss == "cross_entropy":
        return Classifier(trunk.net, nn.Linear(trunk.dimensions, classes), recipe.label_smoothing)
    head = nn.Linear(trunk.dimensions, classes, bias=False)
    return Embedder(trunk.net, head, losses.MetricLoss(recipe, trunk.dimensions, classes))


def one_pass(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, int]],
    options: trunks.Options,
    name: str,
    recipe: Finetuned,
    optimizer: torch.optim.Optimizer | None = None,
) -> tuple[float, float, float]:
    """Go through `loader` once, training where there is an `optimizer`: the loss, Prec@1 and Prec@5.

    They are means over the photos of all processes. Raises `InputError` where the loss is not finite.
    """
    training = optimizer is not None
    device = next(model.parameters()).device
    model.train(training)
    for norm in frozen_norms(model, recipe.batch_norm):
        norm.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    with tqdm(total=len(loader.sampler), desc=name, unit="photo", leave=False, disable=_rank() > 0) as bar:  # type: ignore[arg-type]
        for step, (photos, labels) in enumerate(_batches(loader), 1):
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
            if _came:
                raise stopped_by(_came[0])
            sums += torch.tensor([loss.item() * len(labels), *correct(logits, labels), len(labels)])
            bar.update(len(labels))
            if step % recipe.print_freq == 0:
                bar.set_postfix(loss=float(sums[0] / sums[3]), prec1=float(sums[1] / sums[3]))
    if _world() > 1:
        dist.all_reduce(sums)
    loss_sum, first, fifth, count = sums.tolist()
    return loss_sum / count, first / count, fifth / count


_OF_WORKERS = re.compile("shared memory|unable to mmap|killed by|exited unexpectedly|open files|ancdata")


def _batches(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `loader`. Raises `InputError` where its processes cannot hand them over."""
    try:
        yield from loader
    except (OSError, RuntimeError) as error:
        if not loader.num_workers or (isinstance(error, RuntimeError) and not _OF_WORKERS.search(str(error))):
            raise
        reason = str(error).strip().splitlines()[-1]  # below the traceback of the process
        raise InputError(
            f"finetuned.workers: the {loader.num_workers} processes that decode photos share memory, which "
            f"failed ({reason}); set it to 0{_shared_memory()}"
        ) from None


def _shared_memory() -> str:
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:  # Linux alone has it
        return ""
    return f", or enlarge /dev/shm, which has {size >> 20} MB, as by docker run --shm-size=2g"


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

    Raises `InputError` where `model` has no head, or none of the `photos` is of a class that it knows.
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
        _Photos(known, labels, whole_photo(model.options), 2 * size),
        recipe.batch_size,
        sampler=_Order(labels, None),
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


class Events:
    """TensorBoard event files of a training, in `folder`/<date>_<host>_<backbone>_<dataset>."""

    def __init__(self, folder: Path, backbone: str, dataset: str, photos: Sequence[Tensor]) -> None:
        """`photos`: uint8 (3, S, S), shown as a grid."""
        date = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self.writer = SummaryWriter(str(_new(folder / f"{date}_{platform.node()}_{backbone}_{dataset}")))
        self.writer.add_image("training_photos", make_grid(list(photos)).numpy())

    def add(self, epoch: Epoch) -> None:
        """Add a point to each curve."""
        for name in COLUMNS[1:]:
            part, _, figure = name.partition("_")
            tag = f"{FIGURES[figure]}/{part}" if figure in FIGURES else name
            self.writer.add_scalar(tag, getattr(epoch, name), epoch.epoch)
        self.writer.flush()


def _new(folder: Path) -> Path:
    """`folder`, or a number after it where another run has begun in the same second."""
    for name in chain([folder.name], (f"{folder.name}_{number}" for number in count(2))):
        with suppress(FileExistsError):
            folder.with_name(name).mkdir(parents=True)
            break
    return folder.with_name(name)


# tensorboardX takes no @ in a name.
FIGURES = {"loss": "Loss", "precision_at_1": "Prec_1", "precision_at_5": "Prec_5"}
