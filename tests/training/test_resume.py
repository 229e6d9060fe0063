from pathlib import Path

import numpy as np
import pytest
import torch

from landmarks.errors import InputError
from landmarks.files import sha256
from landmarks.photos.catalog import Photo
from landmarks.training import checkpoints

from ..test_ranges import RANGES
from .conftest import RECIPE, course, recipe, tensors


@pytest.mark.parametrize(
    ("stop_after", "loss"),
    [
        (1, {}),
        (2, {"loss": "proxy_anchor", "sampling": "class_balanced"}),
        (1, {"loss": "triplet", "miner": "distance_weighted"}),
    ],
)
def test_stopped_and_resumed_gives_the_same_bits(
    photos: list[Photo], tmp_path: Path, stop_after: int, loss: dict[str, str]
):
    plan = recipe(**loss)
    whole = course(photos, tmp_path / "whole", plan)
    expected = list(whole.epochs())
    stopped = course(photos, tmp_path / "stopped", plan).epochs()
    for _ in range(stop_after):
        next(stopped)
    resumed = course(photos, tmp_path / "stopped", plan)
    assert list(resumed.epochs()) == expected
    assert tensors(resumed.result()) == tensors(whole.result())


def test_a_broken_checkpoint_is_passed_over(photos: list[Photo], tmp_path: Path):
    whole = course(photos, tmp_path)
    expected = list(whole.epochs())
    (tmp_path / checkpoints.LAST).write_bytes((tmp_path / checkpoints.LAST).read_bytes()[:1000])
    assert list(course(photos, tmp_path).epochs()) == expected


def test_the_kept_epoch_is_the_one_that_validates_best(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path)
    history = list(made.epochs())
    best = max(history, key=lambda epoch: (epoch.val_precision_at_1, -epoch.val_loss))
    kept = torch.load(tmp_path / checkpoints.BEST, weights_only=True)
    assert len(kept["history"]) == best.epoch
    assert kept["classes"] == ["blue", "red"]
    weight = made.result().tensors()["conv1.0.weight"]
    np.testing.assert_array_equal(weight, kept["net"]["trunk.conv1.0.weight"].numpy())


def test_a_best_checkpoint_that_is_gone_is_named(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path, recipe(epochs=1))
    list(made.epochs())
    (tmp_path / checkpoints.BEST).unlink()
    with pytest.raises(InputError, match=r"best\.pt: gone"):
        made.result()


CODE = ("loop", "losses", "sampling", "trunks", "whitening", "images", "_tiffs", "catalog")


SETTINGS = ("photo", "landmark", "split", "lr", "sampling", "weights", "threads", "processes")
VERSIONS = [f"{module}.__version__" for module in ("torch", "torchvision", "timm", "PIL")]
VERSIONS += ["losses.LIBRARY_VERSION"]


@pytest.mark.parametrize("change", [*SETTINGS, *VERSIONS, *CODE], ids="another {}".format)
def test_another_setting_never_resumes(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(photos[0].image_path).read_bytes())
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"1")
    train, val = [Photo(str(copy), "red"), *photos[1:]], list(photos)

    def name(**changes: object) -> str:
        return checkpoints.identity(train, val, recipe(**changes).shaping(), str(weights))

    first = name()
    assert name(workers=7, print_freq=9) == first
    if change == "photo":
        copy.write_bytes(copy.read_bytes() + b"\0")
    if change == "landmark":
        train[0] = Photo(str(copy), "blue")
    if change == "split":
        val.insert(0, train.pop())
    if change in VERSIONS:
        module, version = change.split(".")
        monkeypatch.setattr(getattr(checkpoints, module), version, "0.0.1")
    if change == "weights":
        weights.write_bytes(b"2")
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    if change == "processes":
        monkeypatch.setattr(checkpoints, "world", lambda: 77)
    if change in CODE:
        monkeypatch.setattr(checkpoints, "sha256", lambda path: "2" if path.stem == change else sha256(path))
    changes = {"lr": {"lr": 0.123}, "sampling": {"sampling": "class_balanced"}}.get(change, {})
    assert name(**changes) != first


SAME = {
    "checkpoint_every": "the weights are the same however often they are saved",
    "print_freq": "what is shown",
    "workers": "the weights are the same whoever decodes",
    "scales": "how the trained network describes",
    "flip": "how the trained network describes",
    "normalization": "how the trained network describes",
}
"""Why the weights are those of another value of a parameter."""
MORE = {"miner": ["batch_hard"], "learn_gem_p": [True]}
"""Allowed with other parameters, so not in their ranges."""
OF_TRAINING = [name.removeprefix("finetuned.") for name in RANGES if name.startswith("finetuned.")]


@pytest.mark.parametrize("name", OF_TRAINING)
def test_each_value_of_each_parameter_is_another_run_or_there_is_a_reason(name: str):
    values = [*RANGES[f"finetuned.{name}"][0], *MORE.get(name, [])]
    runs = set()
    for value in values:
        changed = {name.rpartition(".")[2]: tuple(value) if isinstance(value, list) else value}
        of_crops = name.startswith("augment.")
        plan = recipe(augment=RECIPE.augment.model_copy(update=changed)) if of_crops else recipe(**changed)
        runs.add(checkpoints.identity([], [], plan.shaping(), "random"))
    assert len(values) > 1
    assert len(runs) == (1 if name in SAME else len(values))


def test_the_reasons_are_of_parameters_that_there_are():
    assert set(OF_TRAINING) > set(SAME)
