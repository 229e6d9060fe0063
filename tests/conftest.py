import errno
import gc
import os
import signal
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from landmarks import files
from landmarks.cores import CORES
from landmarks.describing import describers, vlad
from landmarks.photos.catalog import Photo
from landmarks.searching import features

ROOT = Path(__file__).parents[1]

# Before torch is imported, here and in what tests start: on small arrays threads mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that a script starts with & or nohup inherits that Ctrl-C or hangups are ignored; tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """A worker for each core, four at most, as each makes the fixtures anew; none for single tests."""
    return 0 if CORES == 1 or all("::" in argument for argument in config.args) else min(CORES, 4)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(900))


def pytest_make_parametrize_id(val):
    """An id that is the same in each worker: not where in memory a value lies, or when it was made."""
    return None if isinstance(val, (str, int, float, bool, type(None))) else type(val).__name__


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Path]:
    """Write smooth colours with some noise, other ones for each seed; returns the path."""

    def make(path, seed=0, size=(64, 48), format="JPEG", mode="RGB", **save):  # noqa: A002
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=int)
        noisy = (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).convert(mode).save(path, format, **save)
        return path

    return make


@pytest.fixture
def unreadable(monkeypatch) -> Callable[..., None]:
    """Let the system refuse to open a file, as permissions would, which do not hold for root."""

    def refuse(path, number=errno.EACCES):
        opened = Path.open

        def denied(self, *arguments, **options):
            if self == path:
                raise OSError(number, os.strerror(number), str(self))
            return opened(self, *arguments, **options)

        monkeypatch.setattr(Path, "open", denied)

    return refuse


@pytest.fixture(scope="session")
def peak_memory() -> Callable[[Callable[[], object], int], int]:
    """The most bytes that Python and NumPy allocate during a call, beside what there was before.

    Of three calls, or as many as it takes to be within a limit, the least: what is compiled, loaded, or
    collected late on a busy machine only adds.
    """

    def peak(call, limit):
        least = sys.maxsize
        for _ in range(3):
            gc.collect()
            tracemalloc.start()
            try:
                call()
                least = min(least, tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            if least <= limit:
                break
        return least

    return peak


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A repository as the pipeline leaves it, VLAD its model: nine photos of three landmarks, one blank.

    `queries/` has a photo more of each landmark, made from the first ones.
    """
    root = tmp_path_factory.mktemp("built")
    photos = []
    for number, landmark in enumerate(["castle", "故宫", "tower, old"]):
        squares = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        original = Image.fromarray(squares).resize((160, 120), Image.Resampling.NEAREST)
        (root / "queries").mkdir(exist_ok=True)
        original.save(root / "queries" / f"{number}.png")
        for copy in range(3):
            path = f"data/mine/images/{landmark}/{copy} {landmark}.jpg"
            photos.append(Photo(path, landmark))
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            original.save(root / path, quality=90 - 20 * copy)
    Image.new("RGB", (64, 48), "white").save(root / photos[-1].image_path)
    options = yaml.safe_load((ROOT / "params.yaml").read_text())
    options.update(dataset="mine", model="vlad", distance="L2")
    options["extract"]["batch_size"] = 2
    (root / "params.yaml").write_text(yaml.safe_dump(options))
    options["vlad"].update(words=4, training_descriptors=1000)
    model = Path("models/model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        describers.write(model, vlad.train([Path(photo.image_path) for photo in photos], **options["vlad"]))
        attributes = {"kind": "vlad", "model_sha256": files.sha256(model)}
        features.extract(Path("features/index.h5"), photos, describers.read(model), attributes, 2)
    return root
