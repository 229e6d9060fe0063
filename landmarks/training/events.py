"""What an epoch reached, and TensorBoard's event files of it."""

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from tensorboardX import SummaryWriter
from torch import Tensor
from torchvision.utils import make_grid


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

# tensorboardX takes no @ in a name.
FIGURES = {"loss": "Loss", "precision_at_1": "Prec_1", "precision_at_5": "Prec_5"}


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
    """`folder`, with a number after it if another run has begun in the same second."""
    for name in chain([folder.name], (f"{folder.name}_{number}" for number in count(2))):
        with suppress(FileExistsError):
            folder.with_name(name).mkdir(parents=True)
            break
    return folder.with_name(name)
