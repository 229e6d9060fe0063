from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from landmarks.describing import describers, engines, trunks
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.training import learners, loop
from landmarks.training.sampling import whole_photo

from .conftest import RECIPE, course, recipe, tensors, trunk


def test_a_batch_of_sixteen_photos_is_learned_by_heart(photos: list[Photo], tmp_path: Path):
    plain = RECIPE.augment.model_copy(update={"scale": (1.0, 1.0), "flip": False, "colour": 0.0})
    plan = recipe(
        epochs=30,
        batch_size=16,
        label_smoothing=0.0,
        augment=plain,
        lr=0.05,
        keep="last",
        checkpoint_every=30,
    )
    *_, last = course(photos, tmp_path, plan).epochs()
    assert last.train_loss < 0.01


def test_a_landmark_of_one_photo_beside_many_is_predicted_where_landmarks_are_balanced(
    photos: list[Photo], tmp_path: Path
):
    reds, blues = photos[::2], photos[1::2]
    for sampling, found in (("instance_balanced", 0.0), ("class_balanced", 1.0)):
        plan = recipe(
            sampling=sampling, epochs=1, lr=0.2, warmup_epochs=0, frozen=45, batch_norm="frozen", keep="last"
        )
        train = [*reds * 8, blues[0]]
        made = loop.Training(trunk(), train, photos, plan, 0, tmp_path / sampling)
        list(made.epochs())
        model = made.result()
        assert loop.evaluate(model, reds, plan)["prec@1"] == 1.0
        assert loop.evaluate(model, blues, plan)["prec@1"] == found


def test_a_metric_loss_is_learned_and_its_head_is_the_class_means(photos: list[Photo], tmp_path: Path):
    plain = RECIPE.augment.model_copy(update={"scale": (1.0, 1.0), "flip": False, "colour": 0.0})
    plan = recipe(loss="arcface", scale=16.0, batch_norm="frozen", augment=plain, keep="last", frozen=45)
    made = loop.Training(trunk(), photos, photos, plan, 0, tmp_path)
    *_, last = made.epochs()
    model = made.result()
    paths = [Path(photo.image_path) for photo in photos]
    described = np.vstack(list(model.describe(paths, 8)))
    units = described / np.linalg.norm(described, axis=1, keepdims=True)
    names = np.array([photo.class_image for photo in photos])
    means = np.stack([units[names == name].mean(axis=0) for name in ("blue", "red")])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert model.head.linear.bias is None
    np.testing.assert_allclose(model.head.linear.weight.numpy(), means, atol=1e-3)

    describers.write(tmp_path / "model.safetensors", model)
    figures = loop.evaluate(describers.read(tmp_path / "model.safetensors"), photos, plan)
    expected = np.mean(np.array(["blue", "red"])[(units @ means.T).argmax(axis=1)] == names)
    assert figures == {"prec@1": pytest.approx(expected), "prec@5": 1.0, "photos": 16}
    assert last.val_precision_at_1 == pytest.approx(expected)


def test_a_photo_that_a_worker_cannot_read_is_named_without_traceback(photos: list[Photo], tmp_path: Path):
    made = course([*photos[:15], Photo("gone.png", "red")], tmp_path, recipe(workers=1))
    with pytest.raises(InputError, match=r"^gone\.png: no such file$"):
        list(made.epochs())


def test_workers_do_not_change_the_result(photos: list[Photo], tmp_path: Path):
    alone, helped = (
        course(photos, tmp_path / str(n), recipe(workers=n, epochs=1, keep="last")) for n in (0, 2)
    )
    assert list(alone.epochs()) == list(helped.epochs())
    assert tensors(alone.result()) == tensors(helped.result())


def test_warm_up_rises_to_the_rate():
    plan = recipe(lr=0.4, warmup_epochs=3, schedule="constant")
    assert [learners.learning_rate(epoch, plan) for epoch in range(5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4]
    )


def test_the_optimizer_takes_the_rate_of_the_epoch(photos: list[Photo], tmp_path: Path):
    plan = recipe(schedule="step", step_epochs=1, warmup_epochs=0, lr=0.01)
    made = course(photos, tmp_path, plan)
    for epoch, rate in zip(made.epochs(), [0.01, 0.001, 0.0001], strict=True):
        assert epoch.learning_rate == pytest.approx(rate)
        assert made.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize(
    ("train", "val", "changes", "message"),
    [
        (0, 4, {}, "no photos to train on; raise split.train, or add photos"),
        (16, 0, {}, "to validate on; raise split.val, or add photos"),
        (16, 4, {"frozen": 48}, "finetuned.frozen: 48 is more than the 45 parameter tensors"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    photos: list[Photo], tmp_path: Path, train: int, val: int, changes: dict[str, int], message: str
):
    with pytest.raises(InputError, match=message):
        loop.Training(trunk(), photos[:train], photos[:val], recipe(**changes), 0, tmp_path)


def test_a_train_size_that_the_network_does_not_take_is_refused(photos: list[Photo], tmp_path: Path):
    fixed = trunks.pretrained("vit_tiny_patch16_224", "random", 224, "avgpool", seed=0)
    with pytest.raises(InputError, match=r"finetuned\.train_size: vit_tiny_patch16_224 does not take"):
        loop.Training(fixed, photos, photos, RECIPE, 0, tmp_path)


def test_one_class_only_is_refused(photos: list[Photo], tmp_path: Path):
    with pytest.raises(InputError, match="red is the only landmark"):
        loop.Training(trunk(), photos[::2], photos[::2], RECIPE, 0, tmp_path)


def test_a_loss_that_is_not_finite_is_an_error_and_saves_nothing(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path, recipe(lr=1e20, warmup_epochs=0, epochs=5))
    with pytest.raises(InputError, match=r"the loss became (nan|inf) in epoch .*lower finetuned.lr"):
        list(made.epochs())


def test_out_of_memory_says_what_to_lower(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = course(photos, tmp_path)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "one_pass", full)
    with pytest.raises(InputError, match=r"lower finetuned.batch_size \(8\) or finetuned.train_size \(32\)"):
        list(made.epochs())


def test_the_model_describes_and_classifies_after_a_round_trip(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path)
    list(made.epochs())
    model = made.result()
    describers.write(tmp_path / "model.safetensors", model)
    again = describers.read(tmp_path / "model.safetensors")
    paths = [Path(photo.image_path) for photo in photos]
    described = np.vstack(list(again.describe(paths, 8)))
    np.testing.assert_array_equal(described, np.vstack(list(model.describe(paths, 8))))
    assert described.shape == (16, 96)

    figures = loop.evaluate(again, photos, RECIPE)
    linear = again.head.linear
    assert torch.equal(linear.weight, model.head.linear.weight)
    data = torch.from_numpy(
        np.stack([whole_photo(again.options)(Image.open(path)).numpy() for path in paths])
    )
    with torch.no_grad():
        logits = linear(
            again.net(engines.normalize(data.permute(0, 2, 3, 1), again.options.mean, again.options.std))
        )
    labels = torch.tensor([again.head.classes.index(photo.class_image) for photo in photos])
    assert figures["prec@1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert figures["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert figures["prec@5"] == 1.0


def test_a_model_of_this_pipeline_is_a_start_with_a_new_head(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path)
    list(made.epochs())
    path = tmp_path / "first.safetensors"
    first = made.result()
    describers.write(path, first)
    second = trunks.pretrained("test_resnet", str(path), 32, "avgpool", seed=0)
    assert second.head is None
    assert tensors(second).items() <= tensors(first).items()
    with pytest.raises(InputError, match=r"does not fit the backbone: .*missing"):
        trunks.pretrained("resnet18", str(path), 32, "avgpool", seed=0)


def test_evaluating_a_model_without_a_head_says_how_to_get_one(photos: list[Photo]):
    with pytest.raises(InputError, match="model=finetuned"):
        loop.evaluate(trunk(), photos, RECIPE)


def test_precision_at_five_of_fewer_classes_is_top_k_of_what_there_is():
    logits = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]])
    assert loop.correct(logits, torch.tensor([1, 2])) == (1, 2)


@pytest.mark.parametrize("loss", ["triplet", "contrastive", "multi_similarity"])
def test_a_trunk_frozen_whole_is_refused_where_the_loss_learns_nothing_itself(
    photos: list[Photo], tmp_path: Path, loss: str
):
    tensors = len(list(trunk().net.parameters()))
    with pytest.raises(InputError, match=rf"finetuned.frozen: {tensors} leaves nothing to train by {loss}"):
        course(photos, tmp_path, recipe(loss=loss, frozen=tensors))
