"""What stages hold in memory at once, against `retrieve.memory`, which must not change what they write."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from landmarks import hdf5, params
from landmarks.errors import InputError
from landmarks.photos import ground_truth
from landmarks.photos.catalog import Photo
from landmarks.reranking.reranker import Reranker
from landmarks.scoring import gallery, measures
from landmarks.searching import features, rankings, search

ROOT = Path(__file__).parents[2]
QUERIES, INDEX, WIDTH, LANDMARKS = 48, 5000, 16, 25
A_PHOTO = 450
"""Bytes for the names of a photo, and for its row by its name."""
FIXED = 400_000
"""Bytes for open files, parameters and progress bars."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Features of photos around 25 landmarks; three of the queries are in the index, too."""
    root = tmp_path_factory.mktemp("searched")
    random = np.random.default_rng(0)
    centres = random.normal(size=(LANDMARKS, WIDTH))
    photos = {}
    for part, size in (("index", INDEX), ("test", QUERIES)):
        of = np.sort(random.integers(0, LANDMARKS, size))
        photos[part] = [
            Photo(f"data/big/images/{name:02}/{part}{row}.jpg", f"{name:02}") for row, name in enumerate(of)
        ]
        rows = (centres[of] + random.normal(size=(size, WIDTH))).astype(np.float32)
        if part == "test":
            photos[part][:3] = photos["index"][:60:20]
        path = root / "features" / f"{part}.h5"
        with hdf5.writing(path, features.KIND) as file:
            features._write(file, rows, photos[part], {"kind": "timm", "model_sha256": "12ab"})
    judged = {
        ground_truth.Query(photo.image_path, None): {
            other.image_path: ground_truth.GRADES["revisited"][row % 3]
            for row, other in enumerate(photos["index"])
            if other.class_image == photo.class_image
        }
        for photo in photos["test"]
    }
    ground_truth.write(root / "data/ground_truth.csv", judged)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for stage in ("retrieve", "rerank"):
            run(stage, 256)
    return root


OPTIONS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def run(stage, memory, rerank="one", **values):
    """Run a stage with so many MB and other parameters."""
    options = {name: dict(value) if isinstance(value, dict) else value for name, value in OPTIONS.items()}
    options.update(rerank=rerank, distance="L2")
    for name, value in {"retrieve__memory": memory, "evaluate__bootstrap": 10, **values}.items():
        section, _, key = name.partition("__")
        options[section][key] = value
    params.PATH.write_text(json.dumps(options), encoding="utf-8")
    importlib.import_module(f"stages.{stage}").main()


@pytest.fixture
def project(searched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("features", "data", "rankings"):
        Path(folder).mkdir()
        for file in (searched / folder).iterdir():
            Path(folder, file.name).symlink_to(file)
    monkeypatch.setattr(search, "CORES", 2)
    monkeypatch.setattr(gallery, "contact_sheet", lambda _: Image.new("RGB", (1, 1)))
    monkeypatch.setattr(gallery, "_data_uri", lambda _: "")


def written():
    """What was written since the project was made."""
    paths = [path for path in sorted(Path().rglob("*")) if path.is_file() and not path.is_symlink()]
    return {path.as_posix(): path.read_bytes() for path in paths if path != params.PATH}


REVISITED = {"evaluate__protocol": "revisited", "split__method": "ground_truth"}
STAGES = [
    ("retrieve", "one", {}),
    ("rerank", "two", {}),
    ("rerank", "aqe+k_reciprocal+two", {"rerank_options__shortlist": 20}),
    ("evaluate", "one", {}),
    ("evaluate", "one", REVISITED),
    ("gallery", "one", {}),
]


@pytest.mark.parametrize(("stage", "rerank", "values"), STAGES, ids=str)
@pytest.mark.usefixtures("project")
def test_a_stage_keeps_to_its_bound_and_writes_the_same_whatever_it_is(peak_memory, stage, rerank, values):
    bound = (1 << 20) + FIXED + A_PHOTO * (QUERIES + INDEX)
    # That it takes more where it may proves that the bound is one.
    assert peak_memory(lambda: run(stage, 256, rerank, **values), sys.maxsize) > bound
    whole = written()
    assert peak_memory(lambda: run(stage, 1, rerank, **values), bound) <= bound
    assert whole == written() != {}


@pytest.mark.parametrize(
    ("stage", "of", "name"),
    [
        ("rerank", Reranker, "bytes_a_result"),
        ("evaluate", measures, "BYTES_A_RESULT"),
        ("gallery", measures, "BYTES_A_RESULT"),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_stage_that_cannot_keep_to_its_bound_says_so(monkeypatch, caplog, stage, of, name):
    monkeypatch.setattr(of, name, 300)  # so that a few results are as many
    for memory, told in ((1, ["set it to 2, or lower retrieve.depth"]), (2, [])):
        caplog.clear()
        run(stage, memory)
        messages = [record.getMessage() for record in caplog.records]
        assert [text.split("; ")[1] for text in messages if "retrieve.memory" in text] == told


@pytest.mark.parametrize(
    ("rerank", "shortlist", "memory"),
    [
        ("k_reciprocal", 100, 1),
        ("aqe+k_reciprocal", 200, 6),
        ("k_reciprocal+two", 300, 13),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_method_that_cannot_keep_to_the_bound_says_so(monkeypatch, caplog, rerank, shortlist, memory):
    monkeypatch.setattr(rankings, "write", lambda *_: None)  # as it is told before anything is ranked
    for more, told in enumerate(([f"set it to {memory + 1}, or lower rerank_options.shortlist"], [])):
        caplog.clear()
        run("rerank", memory + more, rerank, rerank_options__shortlist=shortlist)
        messages = [record.getMessage() for record in caplog.records]
        assert [text.split("; ")[1] for text in messages if "retrieve.memory" in text] == told


@pytest.mark.parametrize(("stage", "path"), [("retrieve", "retrieved"), ("rerank", "reranked")])
@pytest.mark.usefixtures("project")
def test_a_stage_whose_rankings_do_not_fit_on_the_disk_is_refused_at_once(monkeypatch, stage, path):
    monkeypatch.setattr(rankings.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    told = f"rankings/{path}.h5: {QUERIES} queries with {INDEX} results each take 0.00192 GB, 0.001 GB of the"
    with pytest.raises(InputError, match=f"^{told} disk are free; lower retrieve.depth"):
        run(stage, 256)
    assert not Path("rankings", f".{path}.h5.tmp").exists()
    run("retrieve", 256, retrieve__depth=20)
    run("rerank", 256)
