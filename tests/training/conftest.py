from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks import params
from landmarks.describing import trunks
from landmarks.photos.catalog import Photo
from landmarks.training import loop

RECIPE = params.load(Path(__file__).parents[2] / "params.yaml").finetuned.model_copy(
    update={
        "epochs": 3,
        "batch_size": 8,
        "image_size": 32,
        "train_size": 32,
        "workers": 0,
        "checkpoint_every": 2,
        "frozen": 0,
        "batch_norm": "trained",
    }
)


def recipe(**changes: object) -> params.Finetuned:
    return RECIPE.model_copy(update=changes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    """Two landmarks of eight photos: noise on red, and on blue."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    made = []
    for number in range(16):
        name, channel = ("blue", 2) if number % 2 else ("red", 0)
        pixels = rng.integers(0, 120, (40, 48, 3))
        pixels[..., channel] += 120
        path = folder / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        made.append(Photo(str(path), name))
    return made


def trunk(size: int = 32) -> trunks.Trunk:
    return trunks.pretrained("test_resnet", "random", size, "avgpool", seed=0)


def course(photos: list[Photo], folder: Path, plan: params.Finetuned = RECIPE) -> loop.Training:
    made = loop.Training(trunk(), photos, photos[:4], plan, 0, folder)
    made.resume()
    return made


def tensors(model: trunks.Trunk) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in model.tensors().items()}
