import contextlib
import errno
import math
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from landmarks import describers, engines, errors, params, training, trunks
from landmarks.catalog import Photo
from landmarks.errors import InputError
from landmarks.files import sha256

RECIPE = params.load(Path(__file__).parents[1] / "params.yaml").finetuned.model_copy(
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
    return trunks.pretrained("resnet18", "random", size, "avgpool", seed=0)


def course(photos: list[Photo], folder: Path, plan: params.Finetuned = RECIPE) -> training.Training:
    made = training.Training(trunk(), photos, photos[:4], plan, 0, folder)
    made.resume()
    return made


def tensors(model: trunks.Trunk) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in model.tensors().items()}


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("stop_after", "loss"),
    [
        (1, {}),
        (2, {"loss": "proxy_anchor", "sampling": "class_balanced"}),
        pytest.param(1, {"loss": "triplet", "miner": "distance_weighted"}, marks=pytest.mark.slow),
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


def test_batches_hold_as_many_photos_of_a_landmark_as_asked():
    labels = [0] * 9 + [1] * 8 + [2] * 3 + [3] * 4
    order = training._Order(labels, seed=0, together=4)
    epochs = []
    for order.epoch in (0, 1):
        rows = [row for _, row in order]
        assert len(rows) == len(order) == 4 * (3 + 2 + 1 + 1)
        groups = np.reshape(rows, (-1, 4))
        for group in groups:
            assert len({labels[row % 24] for row in group}) == 1
            assert len(set(group)) == 4
        assert set(range(24)) <= set(rows)
        epochs.append(rows)
    assert epochs[0] != epochs[1]
    order.epoch = 0
    assert [row for _, row in order] == epochs[0]


def test_groups_of_a_landmark_are_spread_over_the_epoch():
    labels = [0] * 80 + [1] * 8
    rows = [row for _, row in training._Order(labels, seed=3, together=4)]
    place = [group for group in range(22) if labels[rows[4 * group] % 88] == 1]
    assert place[0] < 11 <= place[1]


def test_a_validation_in_groups_has_every_photo_once():
    labels = [0] * 9 + [1] * 5
    rows = [row for _, row in training._Order(labels, seed=None, together=4)]
    assert sorted(rows) == list(range(14))


@pytest.mark.parametrize(
    ("sampling", "together", "counts"),
    [
        ("instance_balanced", None, {(9, 1)}),
        ("square_root", None, {(7, 3), (8, 2)}),  # three to one
        ("class_balanced", None, {(5, 5)}),
        ("square_root", 3, {(6, 6), (9, 3)}),  # of four groups, as the root of three to that of one
        ("class_balanced", 3, {(6, 6)}),
    ],
)
def test_nine_photos_and_one_are_sampled_as_by_hand(
    sampling: params.Sampling, together: int | None, counts: set[tuple[int, int]]
):
    order = training._Order([0] * 9 + [1], 0, together, sampling)
    seen = set()
    for order.epoch in range(30):
        rows = [row for _, row in order]
        many = [row for row in rows if row % 10 < 9]
        assert sorted(set(rows) - set(many)) == list(range(9, 10 * (len(rows) - len(many)), 10))
        assert len(set(many)) == len(many)
        seen.add((len(many), len(rows) - len(many)))
    assert seen == counts


def test_what_does_not_divide_goes_to_another_landmark_in_another_epoch():
    labels = [0] * 9 + [1, 2]
    order = training._Order(labels, 0, None, "class_balanced")
    totals = np.zeros(3)
    for order.epoch in range(300):
        totals += np.bincount([labels[row % 11] for _, row in order])
    np.testing.assert_allclose(totals / 300, 11 / 3, atol=0.1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=8).flatmap(
        lambda sizes: st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist())
    ),
    st.sampled_from([None, 2, 3, 4]),
    st.sampled_from([("instance_balanced", 1.0), ("square_root", 0.5), ("class_balanced", 0.0)]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 50),
    st.integers(1, 3),
)
def test_each_landmark_has_its_share_of_an_epoch_and_all_its_photos_alike(
    labels: list[int],
    together: int | None,
    sampling: tuple[params.Sampling, float],
    seed: int,
    epoch: int,
    world: int,
):
    def rows_of(rank: int = 0, world: int = 1) -> list[int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "_rank", lambda: rank)
            patch.setattr(training, "_world", lambda: world)
            order = training._Order(labels, seed, together, sampling[0])
            order.epoch = epoch
            assert {number for number, _ in order} == {epoch}
            return [row for _, row in order]

    rows, size = rows_of(), together or 1
    groups = {label: math.ceil(count / size) for label, count in Counter(labels).items()}
    powers = {label: count ** sampling[1] for label, count in groups.items()}
    assert len(rows) == size * sum(groups.values())
    assert len(set(rows)) == len(rows)
    for label, power in powers.items():
        own = [row for row in rows if labels[row % len(labels)] == label]
        share = power / sum(powers.values())
        assert own
        assert abs(len(own) - share * len(rows)) < size + 1e-6
        times = Counter(row % len(labels) for row in own)
        of_label = np.flatnonzero(np.array(labels) == label).tolist()
        least, more = divmod(len(own), len(of_label))
        expected = [least] * (len(of_label) - more) + [least + 1] * more
        assert sorted(times[row] for row in of_label) == expected
        for row, count in times.items():  # each time varied otherwise
            assert all(row + again * len(labels) in own for again in range(count))

    parts = [np.reshape(rows_of(rank, world), (-1, size)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    shared = np.stack(parts, axis=1).reshape(-1, size).tolist()
    whole = np.reshape(rows, (-1, size)).tolist()
    assert shared == (whole * world)[: math.ceil(len(whole) / world) * world]


@pytest.mark.parametrize("sampling", ["square_root", "class_balanced"])
def test_validation_has_every_photo_once_however_training_is_sampled(
    photos: list[Photo], tmp_path: Path, sampling: params.Sampling
):
    unequal = [*photos[:12:2], photos[1]]
    made = training.Training(trunk(), unequal, unequal, recipe(sampling=sampling), 0, tmp_path)
    assert sorted(row for _, row in made.val_loader.sampler) == list(range(7))
    assert sum(row % 7 == 6 for _, row in made.train_loader.sampler) > 1


def test_a_landmark_of_one_photo_beside_many_is_predicted_where_landmarks_are_balanced(
    photos: list[Photo], tmp_path: Path
):
    reds, blues = photos[::2], photos[1::2]
    for sampling, found in (("instance_balanced", 0.0), ("class_balanced", 1.0)):
        plan = recipe(
            sampling=sampling, epochs=1, lr=0.01, warmup_epochs=0, frozen=60, batch_norm="frozen", keep="last"
        )
        train = [*reds * 8, blues[0]]
        made = training.Training(trunk(), train, photos, plan, 0, tmp_path / sampling)
        list(made.epochs())
        model = made.result()
        assert training.evaluate(model, reds, plan)["prec@1"] == 1.0
        assert training.evaluate(model, blues, plan)["prec@1"] == found


def test_a_photo_that_fills_a_group_is_varied_otherwise(photos: list[Photo], tmp_path: Path):
    data = course(photos, tmp_path).train
    (first, label), (again, same), (once_more, _) = data[0, 3], data[0, 3 + 16], data[0, 3]
    assert label == same
    assert torch.equal(first, once_more)
    assert not torch.equal(first, again)


def test_a_metric_loss_is_learned_and_its_head_is_the_class_means(photos: list[Photo], tmp_path: Path):
    plain = RECIPE.augment.model_copy(update={"scale": (1.0, 1.0), "flip": False, "colour": 0.0})
    plan = recipe(loss="arcface", scale=16.0, batch_norm="frozen", augment=plain, keep="last", frozen=60)
    made = training.Training(trunk(), photos, photos, plan, 0, tmp_path)
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
    figures = training.evaluate(describers.read(tmp_path / "model.safetensors"), photos, plan)
    expected = np.mean(np.array(["blue", "red"])[(units @ means.T).argmax(axis=1)] == names)
    assert figures == {"prec@1": pytest.approx(expected), "prec@5": 1.0, "photos": 16}
    assert last.val_precision_at_1 == pytest.approx(expected)


def test_embeddings_that_coincide_are_warned_of(
    photos: list[Photo], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    plan = recipe(loss="triplet", epochs=1, lr=1e-6, keep="last")
    made = course(photos, tmp_path, plan)
    for parameter in made.net.trunk.layer4.parameters():
        parameter.requires_grad = False
    nn.init.zeros_(made.net.trunk.layer4[1].bn2.weight)
    nn.init.zeros_(made.net.trunk.layer4[0].bn2.weight)
    nn.init.zeros_(made.net.trunk.layer4[0].downsample[1].weight)
    nn.init.ones_(made.net.trunk.layer4[0].downsample[1].bias)
    list(made.epochs())
    assert "nearly coincide (mean cosine 1.0000); lower finetuned.lr (1e-06)" in caplog.text


def test_a_broken_checkpoint_is_passed_over(photos: list[Photo], tmp_path: Path):
    whole = course(photos, tmp_path)
    expected = list(whole.epochs())
    (tmp_path / training.LAST).write_bytes((tmp_path / training.LAST).read_bytes()[:1000])
    assert list(course(photos, tmp_path).epochs()) == expected


def test_the_kept_epoch_is_the_one_that_validates_best(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path)
    history = list(made.epochs())
    best = max(history, key=lambda epoch: (epoch.val_precision_at_1, -epoch.val_loss))
    kept = torch.load(tmp_path / training.BEST, weights_only=True)
    assert len(kept["history"]) == best.epoch
    assert kept["classes"] == ["blue", "red"]
    weight = made.result().tensors()["conv1.weight"]
    np.testing.assert_array_equal(weight, kept["net"]["trunk.conv1.weight"].numpy())


def test_a_best_checkpoint_that_is_gone_is_named(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path, recipe(epochs=1))
    list(made.epochs())
    (tmp_path / training.BEST).unlink()
    with pytest.raises(InputError, match=r"best\.pt: gone"):
        made.result()


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
            assert training.learning_rate(epoch, plan) == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()


def test_warm_up_rises_to_the_rate():
    plan = recipe(lr=0.4, warmup_epochs=3, schedule="constant")
    assert [training.learning_rate(epoch, plan) for epoch in range(5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4]
    )


def test_the_optimizer_takes_the_rate_of_the_epoch(photos: list[Photo], tmp_path: Path):
    plan = recipe(schedule="step", step_epochs=1, warmup_epochs=0, lr=0.01)
    made = course(photos, tmp_path, plan)
    for epoch, rate in zip(made.epochs(), [0.01, 0.001, 0.0001], strict=True):
        assert epoch.learning_rate == pytest.approx(rate)
        assert made.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_frozen_leaves_exactly_the_leading_tensors_alone():
    torch.manual_seed(0)
    net = trunks.build("resnet152")
    training.freeze(net, 300)
    frozen = [not parameter.requires_grad for parameter in net.parameters()]
    assert len(frozen) == 465
    assert frozen == [True] * 300 + [False] * 165

    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plan = recipe(lr=0.1)
    model = training.Classifier(net, nn.Linear(2048, 2))
    data = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    loader = torch.utils.data.DataLoader(list(zip(data, [0, 1, 0, 1], strict=True)), 4)
    options = trunks.Options("resnet152", 32, "avgpool", "l1", (0.5,) * 3, (0.5,) * 3)
    training.one_pass(model, loader, options, "test", plan, training.make_optimizer(model, plan))

    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    names = [name for name, _ in net.named_parameters()]
    last_norm = names[299].rpartition(".")[0]
    frozen_modules = {name.rpartition(".")[0] for name in names[:300]}
    assert names[299].endswith("bias"), last_norm
    assert not {name for name in changed if name.rpartition(".")[0] in frozen_modules}
    assert set(names[300:]) <= changed


def test_a_batch_norm_without_weights_counts_as_trained():
    assert training.frozen_norms(nn.BatchNorm2d(3, affine=False), "trained") == []


def test_frozen_batch_norm_keeps_its_statistics(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path, recipe(batch_norm="frozen", keep="last"))
    norm = made.net.trunk.bn1
    statistics, weight = norm.running_mean.clone(), norm.weight.clone()
    list(made.epochs())
    assert torch.equal(norm.running_mean, statistics)
    assert not torch.equal(norm.weight, weight)


@pytest.mark.parametrize(
    ("train", "val", "changes", "message"),
    [
        (0, 4, {}, "no photos to train on; raise split.train, or add photos"),
        (16, 0, {}, "to validate on; raise split.val, or add photos"),
        (16, 4, {"frozen": 63}, "finetuned.frozen: 63 is more than the 60 parameter tensors"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    photos: list[Photo], tmp_path: Path, train: int, val: int, changes: dict[str, int], message: str
):
    with pytest.raises(InputError, match=message):
        training.Training(trunk(), photos[:train], photos[:val], recipe(**changes), 0, tmp_path)


def test_a_train_size_that_the_network_does_not_take_is_refused(photos: list[Photo], tmp_path: Path):
    fixed = trunks.pretrained("vit_tiny_patch16_224", "random", 224, "avgpool", seed=0)
    with pytest.raises(InputError, match=r"finetuned\.train_size: vit_tiny_patch16_224 does not take"):
        training.Training(fixed, photos, photos, RECIPE, 0, tmp_path)


def test_one_class_only_is_refused(photos: list[Photo], tmp_path: Path):
    with pytest.raises(InputError, match="red is the only landmark"):
        training.Training(trunk(), photos[::2], photos[::2], RECIPE, 0, tmp_path)


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

    monkeypatch.setattr(training, "one_pass", full)
    with pytest.raises(InputError, match=r"lower finetuned.batch_size \(8\) or finetuned.train_size \(32\)"):
        list(made.epochs())


OF_SHARED_MEMORY = [
    RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
    RuntimeError("unable to mmap 1204224 bytes from file </torch_1>: Cannot allocate memory (12)"),
    RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
        "are out of shared memory. Please try to raise your shared memory limit."
    ),
    RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
    RuntimeError("received 0 items of ancdata"),
    RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError(errno.ENOSYS, "Function not implemented"),
    OSError(errno.EMFILE, "Too many open files"),
]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], DataLoader]:
    """A loader of so many workers whose iteration raises an error."""

    def make(workers: int, error: Exception) -> DataLoader:
        def fail(_: object) -> None:
            raise error

        monkeypatch.setattr(DataLoader, "__iter__", fail)
        return DataLoader([1, 2, 3], num_workers=workers)

    return make


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("error", OF_SHARED_MEMORY, ids=str)
def test_workers_without_shared_memory_are_told(
    failing: Callable[[int, Exception], DataLoader], error: Exception
):
    with pytest.raises(InputError) as caught:
        list(training._batches(failing(3, error)))
    message = str(caught.value)
    told = f"the 3 processes that decode photos share memory, which failed ({error}); set it to 0"
    assert message.startswith(f"finetuned.workers: {told}")
    if sys.platform == "linux":
        size = shutil.disk_usage("/dev/shm").total >> 20
        assert message.endswith(f", or enlarge /dev/shm, which has {size} MB, as by docker run --shm-size=2g")


@pytest.mark.parametrize(
    ("workers", "error"),
    [
        (0, RuntimeError("shared memory, whatever that is")),
        (0, OSError(errno.ENOSPC, "No space left on device")),
        (2, RuntimeError("shapes do not match")),
        (2, KeyError("shared memory")),
        (2, InputError("photo.jpg: killed by a virus")),
    ],
    ids=str,
)
def test_other_errors_are_not_blamed_on_shared_memory(
    failing: Callable[[int, Exception], DataLoader], workers: int, error: Exception
):
    with pytest.raises(type(error)) as caught:
        list(training._batches(failing(workers, error)))
    assert caught.value is error


@pytest.mark.skipif(sys.platform != "linux", reason="the process is forked, and inherits what fails")
def test_shared_memory_that_fails_in_a_worker_is_told_in_a_line(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(_: int) -> None:
        raise OF_SHARED_MEMORY[0]

    monkeypatch.setattr(torch.UntypedStorage, "_new_using_fd_cpu", fail)
    made = course(photos, tmp_path, recipe(workers=1))
    with pytest.raises(InputError, match=r"No space left on device \(28\)\); set it to 0") as caught:
        list(made.epochs())
    assert "\n" not in str(caught.value)


def test_the_model_describes_and_classifies_after_a_round_trip(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path)
    list(made.epochs())
    model = made.result()
    describers.write(tmp_path / "model.safetensors", model)
    again = describers.read(tmp_path / "model.safetensors")
    paths = [Path(photo.image_path) for photo in photos]
    described = np.vstack(list(again.describe(paths, 8)))
    np.testing.assert_array_equal(described, np.vstack(list(model.describe(paths, 8))))
    assert described.shape == (16, 512)

    figures = training.evaluate(again, photos, RECIPE)
    linear = again.head.linear
    data = torch.from_numpy(
        np.stack([training.whole_photo(again.options)(Image.open(path)).numpy() for path in paths])
    )
    with torch.no_grad():
        logits = linear(
            again.net(engines.normalize(data.permute(0, 2, 3, 1), again.options.mean, again.options.std))
        )
    labels = torch.tensor([again.head.classes.index(photo.class_image) for photo in photos])
    assert figures["prec@1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert figures["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert figures["prec@5"] == 1.0


@pytest.mark.slow
def test_the_p_of_gem_is_learned_when_asked_and_stays_with_the_model(photos: list[Photo], tmp_path: Path):
    paths = [Path(photo.image_path) for photo in photos[:3]]
    for learned in (False, True):
        plan = recipe(train_size=64, learn_gem_p=learned)  # at 32 pixels its map is one pixel
        start = trunks.pretrained(
            "resnet18", "random", 64, "avgpool", 0, learn_gem_p=learned, pooling="gem", gem_p=3.0
        )
        made = training.Training(start, photos, photos[:4], plan, 0, tmp_path / str(learned))
        list(made.epochs())
        model = made.result()
        assert (model.options.gem_p != 3.0) == learned
        describers.write(tmp_path / "model.safetensors", model)
        again = describers.read(tmp_path / "model.safetensors")
        [found], [expected] = again.describe(paths, 3), model.describe(paths, 3)
        np.testing.assert_array_equal(found, expected)


def test_a_model_of_this_pipeline_is_a_start_with_a_new_head(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path)
    list(made.epochs())
    path = tmp_path / "first.safetensors"
    first = made.result()
    describers.write(path, first)
    second = trunks.pretrained("resnet18", str(path), 32, "avgpool", seed=0)
    assert second.head is None
    assert tensors(second).items() <= tensors(first).items()
    with pytest.raises(InputError, match=r"does not fit the backbone: .*missing"):
        trunks.pretrained("resnet34", str(path), 32, "avgpool", seed=0)


def test_evaluating_a_model_without_a_head_says_how_to_get_one(photos: list[Photo]):
    with pytest.raises(InputError, match="model=finetuned"):
        training.evaluate(trunk(), photos, RECIPE)


def test_precision_at_five_of_fewer_classes_is_top_k_of_what_there_is():
    logits = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]])
    assert training.correct(logits, torch.tensor([1, 2])) == (1, 2)


CODE = ("training", "losses", "trunks", "pooling", "engines", "images", "tiffs")


@pytest.mark.parametrize(
    "change", ["photo", "lr", "sampling", "weights", "threads", "processes", *CODE], ids="another {}".format
)
def test_another_setting_never_resumes(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(photos[0].image_path).read_bytes())
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"1")
    train = [Photo(str(copy), "red"), *photos[1:]]

    def name(**changes: object) -> str:
        return training.identity(train, photos, recipe(**changes).shaping(), str(weights))

    first = name()
    assert name(workers=7, print_freq=9) == first
    if change == "photo":
        copy.write_bytes(copy.read_bytes() + b"\0")
    if change == "weights":
        weights.write_bytes(b"2")
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    if change == "processes":
        monkeypatch.setattr(training, "_world", lambda: 77)
    if change in CODE:
        monkeypatch.setattr(training, "sha256", lambda path: "2" if path.stem == change else sha256(path))
    changes = {"lr": {"lr": 0.123}, "sampling": {"sampling": "class_balanced"}}.get(change, {})
    assert name(**changes) != first


def test_events_hold_a_point_an_epoch_and_the_photos(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path / "checkpoints")
    events = training.Events(tmp_path / "runs", "resnet18", "test", made.sample())
    for epoch in made.epochs():
        events.add(epoch)
    events.writer.close()
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("_resnet18_test")
    content = next(folder.iterdir()).read_bytes()
    for tag in (b"Loss/train", b"Loss/val", b"Prec_1/train", b"Prec_5/val", b"learning_rate"):
        assert content.count(tag) == 3
    assert content.count(b"training_photos") == 1


@pytest.mark.parametrize(
    ("number", "where"),
    [
        (signal.SIGINT, "correct"),
        (signal.SIGHUP, "correct"),
        (signal.SIGTERM, "saved"),
        (signal.SIGINT, "saved"),
    ],
)
def test_a_signal_whose_exception_is_lost_ends_training_all_the_same(
    photos: list[Photo],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    where: str,
):
    correct, save = training.correct, torch.save
    monkeypatch.setattr(errors, "_last", float("-inf"))

    def come() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)

    def counted(*args: torch.Tensor) -> tuple[int, int]:
        come()  # as in a `__del__`
        return correct(*args)

    def saved(state: object, file: object) -> None:
        if (tmp_path / training.BEST).exists():
            come()
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 64")
        save(state, file)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    if where == "correct":
        monkeypatch.setattr(training, "correct", counted)
    else:
        monkeypatch.setattr(torch, "save", saved)
    with pytest.raises(KeyboardInterrupt) as caught:
        list(course(photos, tmp_path, recipe(checkpoint_every=1, epochs=1)).epochs())
    assert isinstance(caught.value, errors.Terminated) == (number != signal.SIGINT)
    there = tmp_path / training.BEST if where == "saved" else "not yet there"
    assert caught.value.__notes__ == [f"the last checkpoint is {there}, run again to go on"]
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.undo()
    assert len(list(course(photos, tmp_path, recipe(epochs=1)).epochs())) == 1


@pytest.mark.parametrize("loss", ["triplet", "contrastive", "multi_similarity"])
def test_a_trunk_frozen_whole_is_refused_where_the_loss_learns_nothing_itself(
    photos: list[Photo], tmp_path: Path, loss: str
):
    tensors = len(list(trunk().net.parameters()))
    with pytest.raises(InputError, match=rf"finetuned.frozen: {tensors} leaves nothing to train by {loss}"):
        course(photos, tmp_path, recipe(loss=loss, frozen=tensors))


def test_an_epoch_of_groups_has_photos_of_every_landmark(photos: list[Photo], tmp_path: Path):
    # Nine landmarks of a photo or two make nine groups of four, the last of which is no whole batch.
    nine = [photo._replace(class_image=str(place % 9)) for place, photo in enumerate(photos)]
    made = course(nine, tmp_path, recipe(loss="triplet", per_class=4, epochs=1))
    assert {int(label) for _, labels in made.train_loader for label in labels} == set(range(9))
    list(made.epochs())
    lengths = np.linalg.norm(made.net.head.weight.detach().numpy(), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
