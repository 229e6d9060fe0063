"""Training on one dataset, then on another from where the first ended, with `dvc exp run`."""

import shutil

import numpy as np
import pytest
from PIL import Image

from landmarks.describing import describers
from landmarks.describing.trunks import Trunk, pretrained

from .conftest import Project, copy_of_repository

LANDMARKS = {"first": ("abbey", "bridge"), "second": ("castle", "dome", "abbey")}
FIRST = "models/first.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after the first dataset, the model of it kept as `FIRST`."""
    project = copy_of_repository(tmp_path_factory.mktemp("sequential"))
    project.set(
        backbone="resnet18",
        weights="random",
        demo__classes=1,
        demo__photos=1,
        split__train=0.5,
        split__val=0.25,
        split__test=0.125,
        split__index=0.125,
        finetuned__image_size=32,
        finetuned__train_size=32,
        finetuned__epochs=1,
        finetuned__warmup_epochs=0,
        finetuned__frozen=0,
        finetuned__batch_norm="trained",
        gallery__queries=1,
    )
    rng = np.random.default_rng(0)
    for dataset, landmarks in LANDMARKS.items():
        for landmark in landmarks:
            folder = project.root / "data" / dataset / "images" / landmark
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "Small parameters")
    project.dvc("exp", "run", "-S", "dataset=first", "-S", "model=finetuned")
    shutil.copy(project.root / "models/model.safetensors", project.root / FIRST)
    return project


def model(project: Project, path: str) -> Trunk:
    made = describers.read(project.root / path)
    assert isinstance(made, Trunk)
    return made


def of_trunk(model: Trunk) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.net.state_dict().items()}


@pytest.mark.slow
def test_the_second_training_starts_from_the_first_with_a_head_of_its_own(trained: Project):
    first = model(trained, FIRST)
    assert first.head is not None
    assert first.head.classes == ("abbey", "bridge")
    untrained = of_trunk(pretrained("resnet18", "random", 32, "avgpool", seed=0))
    assert of_trunk(first).keys() == untrained.keys()
    assert of_trunk(first) != untrained

    # With all of the trunk frozen, what the second training starts from is what it ends with.
    settings = ["dataset=second", f"weights={FIRST}", "finetuned.frozen=60", "finetuned.batch_norm=frozen"]
    ran = trained.stages_run("exp", "run", *(word for setting in settings for word in ("-S", setting)))
    assert "model" in ran
    second = model(trained, "models/model.safetensors")
    assert of_trunk(second) == of_trunk(first)
    assert second.head is not None
    assert second.head.classes == ("abbey", "castle", "dome")
    assert second.head.linear.weight.shape == (3, 512)
    listed = (trained.root / "data/splits/train.csv").read_text()
    assert listed.count("data/second/images/") == len(LANDMARKS["second"]) * 4
    assert "data/first" not in listed


@pytest.mark.slow
def test_weights_of_another_backbone_are_an_error_that_names_tensors(trained: Project):
    settings = ["-S", "dataset=second", "-S", f"weights={FIRST}", "-S", "backbone=resnet34"]
    done = trained.run("dvc", "exp", "run", *settings, "model", check=False)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    expected = f"error: weights: {FIRST} does not fit the backbone: layer1.2.conv1.weight is missing; "
    assert expected in said
    assert "Traceback" not in said
    assert not (trained.root / "models/model.safetensors").exists()  # DVC removes the one of before
