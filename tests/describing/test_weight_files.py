import errno
import os
import pickle
import re
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
from numpy.testing import assert_array_equal

from landmarks.describing.weights import read
from landmarks.errors import InputError

from .conftest import load_tiny, pretrained, save


class Trap:
    """What a pickle may do when it is loaded: here, make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["models/model.safetensors", "../{}/models/model.safetensors", "link.pth"])
@pytest.mark.parametrize("there", [True, False])
def test_what_the_stage_writes_and_dvc_deletes_before_is_refused(tmp_path, monkeypatch, name, there):
    monkeypatch.chdir(tmp_path)
    Path("link.pth").symlink_to("models/model.safetensors")
    Path("models").mkdir()
    if there:
        save(Path("models/model.safetensors"), {"conv1.weight": torch.ones(1)})
    with pytest.raises(InputError, match=r"is what this stage writes, .*; copy it elsewhere first"):
        read(Path(name.format(tmp_path.name)))


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
        read(path)
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
        read(path)
    assert str(caught.value).startswith(f"weights: {path} ")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_of_weights_is_refused_by_name(network, tmp_path, suffix):
    path = save(tmp_path / f"w{suffix}", {"conv1.weight": network.conv1.weight.detach()})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="holds no state dict") as caught:
        read(path)
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
        read(Path(weights))
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
        read(path)
    assert str(caught.value) == f"weights: {path}: cannot be read ({os.strerror(number)})"


def test_weights_in_a_folder_that_must_not_be_looked_into_are_told(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(InputError, match=r"^weights: a/w\.pth: cannot be read \(Permission denied\)$"):
        read(Path("a/w.pth"))


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
