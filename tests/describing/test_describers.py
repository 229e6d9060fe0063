import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from landmarks.describing import describers, trunks
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo

SIZE = 32
# Tensors and settings enough that an order left to chance would show.
WRITE = """
import sys
from pathlib import Path
import numpy as np
from landmarks.describing import describers

class Model:
    kind = "resnet"
    def tensors(self):
        return {name: np.arange(len(name)) for name in {f"layer{i}" for i in range(200)}}
    def settings(self):
        return {name: [1, None, "Huế"] for name in {f"setting{i}" for i in range(50)}}

describers.write(Path(sys.argv[1]), Model())
"""


@pytest.fixture(scope="module")
def trunk():
    return trunks.pretrained("resnet18", "random", SIZE, "avgpool", 3)


@pytest.fixture(scope="module")
def written(trunk, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    describers.write(path, trunk)
    return path


@pytest.fixture(scope="module")
def metadata(trunk):
    return {"kind": trunk.kind, "settings": trunk.settings(), "version": describers.VERSION}


def test_a_model_read_back_describes_the_same(trunk, written, make_photo, tmp_path):
    photos = [make_photo(tmp_path / f"{i}.jpg", i) for i in range(3)]
    read = describers.read(written)
    assert read.kind == "resnet"
    assert read.dimensions == 512
    [expected], [found] = (list(model.describe(photos, 3)) for model in (trunk, read))
    assert_array_equal(found, expected)


def test_a_whitened_model_read_back_describes_the_same_and_is_a_start_for_another(
    trunk, make_photo, tmp_path
):
    photos = [Photo(str(make_photo(tmp_path / f"{i}.jpg", i)), "ab"[i % 2]) for i in range(6)]
    paths, path = [Path(photo.image_path) for photo in photos], tmp_path / "model.safetensors"
    model = describers.whitened(trunk, photos, "pca", 3, 1.0)
    describers.write(path, model)
    read = describers.read(path)
    assert read.dimensions == 3
    assert read.settings()["whitening"] == "pca"
    [expected], [found] = (list(one.describe(paths, 6)) for one in (model, read))
    assert_array_equal(found, expected)
    start = trunks.pretrained("resnet18", str(path), SIZE, "avgpool", 0)
    [plain], [again] = (list(one.describe(paths, 6)) for one in (trunk, start))
    assert_array_equal(again, plain)


def test_two_processes_write_the_same_bytes(tmp_path):
    paths = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        subprocess.run(
            [sys.executable, "-c", WRITE, path],
            check=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},  # another order of sets
        )
    first, second = (path.read_bytes() for path in paths)
    assert first == second


def test_the_metadata_says_the_kind_and_the_settings(written):
    content = written.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    entry = json.loads(header["__metadata__"]["landmarks"])
    assert entry["kind"] == "resnet"
    assert entry["settings"]["backbone"] == "resnet18"
    assert entry["settings"]["image_size"] == SIZE


@pytest.mark.parametrize(
    "content",
    [b"", b"text, and more of it", bytes(100), b"\x80\x04."],
    ids=["empty", "text", "zeros", "pickle"],
)
def test_a_file_that_is_no_safetensors_is_refused_by_name(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a model of this pipeline") as caught:
        describers.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_truncated_model_is_refused_by_name(written, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(written.read_bytes()[:-1000])
    with pytest.raises(InputError, match="not a model of this pipeline") as caught:
        describers.read(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda metadata: None, "not a model of this pipeline"),
        (lambda metadata: {"format": "pt"}, "not a model of this pipeline"),
        (lambda metadata: {"landmarks": "no JSON"}, "not a model of this pipeline"),
        (lambda metadata: {"landmarks": "[]"}, "not a model of this pipeline"),
        (lambda metadata: {"landmarks": "{}"}, "not a model of this pipeline"),
        (
            lambda metadata: {"landmarks": json.dumps(metadata | {"settings": {}})},
            "damaged; to make it anew, run: find",
        ),
        (lambda metadata: {"landmarks": json.dumps(metadata)}, "damaged; to make it anew, run: find"),
        (
            lambda metadata: {"landmarks": json.dumps(metadata | {"version": 3})},
            "of version 3 of its format, 2",
        ),
        (
            lambda metadata: {"landmarks": json.dumps({**metadata, "version": 1})},
            "of version 1 of its format, 2 is read; run `dvc repro` to make it anew",
        ),
    ],
    ids=["none", "another", "no JSON", "a list", "no settings", "half", "other tensors", "newer", "older"],
)
def test_safetensors_of_something_else_are_refused_by_name(tmp_path, metadata, change, said):
    path = tmp_path / "model.safetensors"
    save_file({"conv1.weight": np.zeros((1, 2), np.float32)}, path, change(metadata))
    with pytest.raises(InputError) as caught:
        describers.read(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_a_bit_that_has_changed_anywhere_in_a_model_is_noticed(written, tmp_path):
    path, content = tmp_path / "model.safetensors", bytearray(written.read_bytes())
    random = np.random.default_rng(5)
    header = int.from_bytes(content[:8], "little")
    places = [*random.integers(0, 8 * len(content), 15), *random.integers(0, 8 * (8 + header), 15)]
    for place in places:
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(InputError):
            describers.read(path)
        content[place // 8] ^= 1 << place % 8


def test_a_missing_model_says_what_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"model\.safetensors: no such file; `dvc repro` makes it"):
        describers.read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_model_that_the_system_does_not_give_is_not_taken_for_missing_or_broken(
    written, unreadable, number
):
    unreadable(written, number)
    with pytest.raises(InputError) as caught:
        describers.read(written)
    assert str(caught.value) == f"{written}: cannot be read ({os.strerror(number)})"


def test_a_folder_in_the_place_of_a_model_is_told(tmp_path):
    with pytest.raises(InputError) as caught:
        describers.read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read (Is a directory)"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be mapped")
def test_a_model_on_a_file_system_without_memory_maps_is_told():
    with pytest.raises(InputError, match=r"^/proc/self/mem: cannot be read \(No such device"):
        describers.read(Path("/proc/self/mem"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device of Linux")
def test_a_disk_that_fills_up_is_said_and_leaves_no_half_model(trunk, tmp_path):
    path = tmp_path / "model.safetensors"
    (tmp_path / ".model.safetensors.tmp").symlink_to("/dev/full")
    with pytest.raises(InputError, match="the disk is full") as caught:
        describers.write(path, trunk)
    assert str(caught.value).startswith(f"{path}: ")
    assert list(tmp_path.iterdir()) == []
