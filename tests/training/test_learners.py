from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landmarks.describing import describers, trunks
from landmarks.photos.catalog import Photo
from landmarks.training import learners, loop

from .conftest import course, recipe


def test_embeddings_that_coincide_are_warned_of(
    photos: list[Photo], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    plan = recipe(loss="triplet", epochs=1, lr=1e-6, keep="last")
    made = course(photos, tmp_path, plan)
    for parameter in made.net.trunk.layer4.parameters():
        parameter.requires_grad = False
    nn.init.zeros_(made.net.trunk.layer4[0].bn2.weight)
    nn.init.zeros_(made.net.trunk.layer4[0].downsample[2].weight)
    nn.init.ones_(made.net.trunk.layer4[0].downsample[2].bias)
    list(made.epochs())
    assert "nearly coincide (mean cosine 1.0000); lower finetuned.lr (1e-06)" in caplog.text


def test_the_rates_are_those_of_torch_schedules():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    for name, schedule in {
        "step": torch.optim.lr_scheduler.StepLR(optimizer, 2),
        "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6),
        "constant": torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    }.items():
        plan = recipe(lr=0.5, epochs=6, schedule=name, step_epochs=2, warmup_epochs=0)
        optimizer.param_groups[0]["lr"] = 0.5
        for epoch in range(6):
            assert learners.learning_rate(epoch, plan) == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()


def test_frozen_leaves_exactly_the_leading_tensors_alone():
    torch.manual_seed(0)
    net = trunks.build("resnet50")
    learners.freeze(net, 99)
    frozen = [not parameter.requires_grad for parameter in net.parameters()]
    assert len(frozen) == 159
    assert frozen == [True] * 99 + [False] * 60

    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plan = recipe(lr=0.1)
    model = learners.Classifier(net, nn.Linear(2048, 2))
    data = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    loader = torch.utils.data.DataLoader(list(zip(data, [0, 1, 0, 1], strict=True)), 4)
    options = trunks.Options("resnet50", 32, "avgpool", "l1", (0.5,) * 3, (0.5,) * 3)
    loop.one_pass(model, loader, options, "test", plan, learners.make_optimizer(model, plan))

    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    names = [name for name, _ in net.named_parameters()]
    last_norm = names[98].rpartition(".")[0]
    frozen_modules = {name.rpartition(".")[0] for name in names[:99]}
    assert names[98].endswith("bias"), last_norm
    assert not {name for name in changed if name.rpartition(".")[0] in frozen_modules}
    assert set(names[99:]) <= changed


def test_a_batch_norm_without_weights_counts_as_trained():
    assert learners.frozen_norms(nn.BatchNorm2d(3, affine=False), "trained") == []


def test_frozen_batch_norm_keeps_its_statistics(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path, recipe(batch_norm="frozen", keep="last"))
    norm = made.net.trunk.bn1
    statistics, weight = norm.running_mean.clone(), norm.weight.clone()
    list(made.epochs())
    assert torch.equal(norm.running_mean, statistics)
    assert not torch.equal(norm.weight, weight)


def test_the_p_of_gem_is_learned_when_asked_and_stays_with_the_model(photos: list[Photo], tmp_path: Path):
    paths = [Path(photo.image_path) for photo in photos[:3]]
    for learned in (False, True):
        plan = recipe(train_size=64, learn_gem_p=learned)  # at 32 pixels its map is one pixel
        start = trunks.pretrained(
            "test_resnet", "random", 64, "avgpool", 0, learn_gem_p=learned, pooling="gem", gem_p=3.0
        )
        made = loop.Training(start, photos, photos[:4], plan, 0, tmp_path / str(learned))
        list(made.epochs())
        model = made.result()
        assert (model.options.gem_p != 3.0) == learned
        describers.write(tmp_path / "model.safetensors", model)
        again = describers.read(tmp_path / "model.safetensors")
        [found], [expected] = again.describe(paths, 3), model.describe(paths, 3)
        np.testing.assert_array_equal(found, expected)
