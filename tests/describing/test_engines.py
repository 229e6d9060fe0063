import logging
import runpy
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from landmarks import cores
from landmarks.describing import engines, trunks
from landmarks.describing.engines import Execution, Photos
from landmarks.errors import InputError
from landmarks.photos import images

SIZE = 64


@pytest.fixture(scope="module")
def trunk():
    return trunks.pretrained("test_resnet", "random", SIZE, "avgpool", seed=0)


@pytest.fixture
def photos(tmp_path, make_photo):
    return [make_photo(tmp_path / f"{number}.jpg", number, size=(300, 200)) for number in range(9)]


def described(trunk, photos, batch_size=4, **execution):
    trunk.execution = Execution(**execution)
    return np.concatenate(list(trunk.describe(photos, batch_size)))


def has_bfloat16():
    """Whether OpenVINO uses it on this processor, where float32 takes its place otherwise."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(
    ("execution", "closeness"),
    [
        ({"engine": "torch"}, 0.999999),
        ({"engine": "openvino"}, 0.999999),
        ({"engine": "torch", "precision": "bfloat16"}, 0.99),
        ({"engine": "openvino", "precision": "bfloat16"}, 0.99),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else None,
)
def test_every_engine_gives_what_the_network_gives(trunk, photos, execution, closeness):
    pixels = np.stack([images.Views(SIZE).of(photo)[0] for photo in photos])
    mean, std = (np.array(values, np.float32) for values in (trunk.options.mean, trunk.options.std))
    with torch.inference_mode():
        expected = trunk.net(
            torch.from_numpy((pixels / 255 - mean) / std).float().permute(0, 3, 1, 2)
        ).numpy()
    found = described(trunk, photos, **execution)
    assert cosines(found, expected).min() > closeness
    if "precision" in execution and (execution["engine"] == "torch" or has_bfloat16()):
        assert np.abs(found - described(trunk, photos, engine=execution["engine"])).max() > 1e-5
    np.testing.assert_allclose(np.abs(found).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_content_of_a_file_is_described_like_the_file(trunk, photos, engine):
    paths = described(trunk, photos[:2], engine=engine)
    contents = described(trunk, [photo.read_bytes() for photo in photos[:2]], engine=engine)
    np.testing.assert_array_equal(contents, paths)


def test_openvino_gives_the_same_bits_in_any_batch(trunk, photos):
    whole = described(trunk, photos, 9, engine="openvino")
    np.testing.assert_array_equal(described(trunk, photos[3:5], 1, engine="openvino"), whole[3:5])


def test_openvino_does_not_tell_its_maker(trunk, photos):
    described(trunk, photos[:1], engine="openvino")
    assert sys.modules["openvino_telemetry"] is None


def test_a_network_that_openvino_does_not_take_is_told():
    class Odd(nn.Module):
        def forward(self, photos):
            return torch.linalg.eig(photos[:, 0])[0].real

    with pytest.raises(InputError, match=r"does not take this network \(.*aten::linalg_eig\); set it to"):
        engines.openvino(Photos(Odd(), (0, 0, 0), (1, 1, 1)), SIZE, "float32")


class Tiny(nn.Module):
    """A network of its own in the cache of `openvino`; one that is `odd` does not convert."""

    def __init__(self, seed, odd):
        super().__init__()
        self.scale = 1 + seed
        self.odd = odd

    def forward(self, photos):
        if self.odd:
            photos = torch.linalg.eig(photos[:, :, :8, :8])[0].real[..., None]
        return self.scale * photos.mean((2, 3))


def logging_and_warnings():
    root = logging.getLogger()
    return root.level, root.filters[:], root.handlers[:], root.disabled, warnings.filters[:]


@pytest.mark.parametrize("odd", [(False, False), (True, False), (True, True)], ids=["whole", "one", "both"])
def test_networks_that_are_converted_at_once_do_not_disturb_each_other_or_anything_else(odd, caplog):
    caplog.set_level(logging.INFO)
    # pytest has handlers of its own at the root, without which the converter adds one.
    root, photo = logging.getLogger(), np.full((SIZE, SIZE, 3), 51, np.uint8)
    for handlers in (root.handlers[:], []):
        before = root.handlers[:]
        root.handlers = handlers
        state = logging_and_warnings()
        try:
            with ThreadPoolExecutor(2) as pool:
                for seed in range(6):
                    together = Barrier(2)

                    def convert(fails, seed=seed, together=together):
                        net = Photos(Tiny(seed, fails), (0, 0, 0), (1, 1, 1))
                        together.wait()
                        return engines.openvino(net, SIZE, "float32")(photo)

                    for fails, found in [(fails, pool.submit(convert, fails)) for fails in odd]:
                        if fails:
                            assert "aten::linalg_eig" in str(found.exception())
                        else:
                            assert_allclose(found.result(), [0.2 * (1 + seed)] * 3, rtol=1e-3)
            assert logging_and_warnings() == state
        finally:
            root.handlers = before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(trunk, photos):
    with pytest.raises(InputError, match=r"extract\.device: cuda, but torch finds no GPU"):
        described(trunk, photos, device="cuda")


def test_openvino_compiles_a_network_once_for_photos_described_one_by_one(trunk, photos, monkeypatch):
    import openvino

    described(trunk, photos[:1], engine="openvino")
    monkeypatch.setattr(openvino, "convert_model", None)
    described(trunk, photos[1:2], engine="openvino")


@pytest.mark.parametrize(
    ("threads", "told", "expected"), [(7, None, 3), (3, None, 3), (2, None, 2), (7, "7", 7), (2, "2", 2)]
)
def test_torch_has_no_more_threads_than_cores_unless_it_is_told_how_many(
    monkeypatch, threads, told, expected
):
    monkeypatch.setattr(cores, "CORES", 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runpy.run_path(engines.__file__)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
