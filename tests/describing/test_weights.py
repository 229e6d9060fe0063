import argparse
import random
import re

import pytest
import timm
import torch
from numpy.testing import assert_array_equal

from landmarks.describing.whitening import TENSORS
from landmarks.errors import InputError

from .conftest import SIZE, load_tiny, pretrained, save


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


def test_the_whitening_of_a_model_of_this_pipeline_is_dropped(tiny, tmp_path):
    learned = {f"{TENSORS}.mean": torch.ones(3), f"{TENSORS}.projection": torch.eye(3)}
    check_tiny(save(tmp_path / "w.safetensors", tiny | learned), tiny)


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
