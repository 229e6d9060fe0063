"""The whole path of Oxford5k and Paris6k on stand-ins: drawn photos in archives laid out as the published."""

import csv
import functools
import io
import json
import pickle
import shutil
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import fmean

import h5py
import numpy as np
import pytest
from PIL import Image

from landmarks.describing import describers

from ..scoring.test_protocols import area_under_curve, precision_at
from .conftest import Project

BROKEN = "paris_louvre_000136"  # one of the files that were published broken
BOX = (20.5, 10.2, 290.0, 900.7)  # reaches below the photo
SERVED = {
    "oxford": "~vgg/data/oxbuildings/oxbuild_images-v1.tgz",
    "oxford truth": "~vgg/data/oxbuildings/gt_files_170407.tgz",
    "paris truth": "~vgg/data/parisbuildings/paris_120310.tgz",
    "paris 1": "~vgg/data/parisbuildings/paris_1-v1.tgz",
    "paris 2": "~vgg/data/parisbuildings/paris_2-v1.tgz",
    "revisited": "revisitop/data/datasets/rparis6k/gnd_rparis6k.pkl",
}


def pack(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def named(project: Project, form: str, landmarks: dict[str, int]) -> dict[str, bytes]:
    """Six photos for each landmark, of the drawn one of that number, under names of the published form."""
    drawn = sorted((project.root / "data/demo/images").iterdir())
    return {
        form.format(landmark=landmark, number=number): photo.read_bytes()
        for landmark, place in landmarks.items()
        for number, photo in enumerate(sorted(drawn[place].iterdir())[:6])
    }


OXFORD = {
    "oxc1_all_souls_000000": {"good": ["all_souls_000000", "all_souls_000001"], "ok": ["all_souls_000002"]},
    "oxc1_ashmolean_000003": {"good": ["ashmolean_000000", "oxford_000002"], "junk": ["oxford_000000"]},
}
PARIS = {
    "paris_defense_000000": {
        "good": ["paris_defense_000000", "paris_defense_000001"],
        "ok": ["paris_defense_000002", "paris_general_000003", BROKEN],
    },
    "paris_eiffel_000005": {
        "good": ["paris_eiffel_000000"],
        "ok": ["paris_eiffel_000001"],
        "junk": ["paris_eiffel_000005", "paris_eiffel_000002", "paris_eiffel_000003"],
    },
}
REVISITED = {
    "paris_defense_000000": {"easy": [1, 2], "hard": [3, 4], "junk": [5]},
    "paris_eiffel_000005": {"easy": [], "hard": [0, 1, 2], "junk": [3]},
}
"""By number, each of the landmark of its query."""


def lists(queries: dict[str, dict[str, list[str]]]) -> dict[str, bytes]:
    files = {}
    for name, grades in queries.items():
        query = name.removeprefix("oxc1_").removeprefix("paris_")[:-7] + "_1"
        files[f"{query}_query.txt"] = f"{name} {' '.join(map(str, BOX))}\n".encode()
        for grade in ("good", "ok", "junk"):
            files[f"{query}_{grade}.txt"] = "".join(f"{name}\n" for name in grades.get(grade, [])).encode()
    return files


def paris_pickle(names: list[str]) -> bytes:
    names = [name for name in names if name not in REVISITED and name != BROKEN]
    gnd = [
        {"bbx": list(BOX)}
        | {
            grade: np.array([names.index(f"{query[:-1]}{number}") for number in numbers], np.int64)
            for grade, numbers in grades.items()
        }
        for query, grades in REVISITED.items()
    ]
    content = {"gnd": gnd, "imlist": names, "qimlist": list(REVISITED)}
    return pickle.dumps(content, 3).replace(b"numpy._core", b"numpy.core")  # as NumPy 1 wrote it


@pytest.fixture(scope="module")
def served(project: Project, tmp_path_factory: pytest.TempPathFactory):
    """The URL of a server that has the stand-ins at the published paths."""
    root = tmp_path_factory.mktemp("served")
    oxford = named(project, "{landmark}_{number:06}.jpg", {"all_souls": 0, "ashmolean": 1, "oxford": 2})
    pack(root / SERVED["oxford"], oxford)
    pack(root / SERVED["oxford truth"], lists(OXFORD))
    pack(root / SERVED["paris truth"], lists(PARIS))
    form = "paris/{landmark}/paris_{landmark}_{number:06}.jpg"
    paris = named(project, form, {"defense": 0, "eiffel": 1})
    broken = {f"paris/louvre/{BROKEN}.jpg": next(iter(paris.values()))[:3000]}
    rest = named(project, form, {"general": 3})
    pack(root / SERVED["paris 1"], paris)
    pack(root / SERVED["paris 2"], rest | broken)
    truth = root / SERVED["revisited"]
    truth.parent.mkdir(parents=True)
    truth.write_bytes(paris_pickle([Path(name).stem for name in paris | rest | broken]))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=root)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def without_photos(at_first: Project):
    yield at_first
    for name in ("data/oxford", "data/paris", "downloads"):
        shutil.rmtree(at_first.root / name, ignore_errors=True)


def landmarks(project: Project, *arguments: str) -> str:
    return project.run(
        sys.executable, "-c", "from landmarks.asking.cli import main; main()", *arguments
    ).stdout


def rows(project: Project, path: str) -> list[dict[str, str]]:
    with (project.root / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def metrics(project: Project) -> dict[str, float]:
    return json.loads((project.root / "reports/metrics.json").read_text())


def rankings(project: Project) -> dict[str, list[str]]:
    """For each query the names of the index photos, nearest first, from the features alone."""
    stores = []
    for part in ("test", "index"):
        with h5py.File(project.root / f"features/{part}.h5") as file:
            names = [Path(path.decode()).stem for path in file["image_path"][:]]
            stores.append((names, file["features"][:].astype(np.float64)))
    (queries, query_features), (index, features) = stores
    return {
        query: [index[row] for row in np.argsort(np.abs(features - feature).sum(axis=1), kind="stable")]
        for query, feature in zip(queries, query_features, strict=True)
    }


def test_oxford_is_sorted_and_split_by_its_ground_truth(without_photos: Project, served: str):
    project = without_photos
    said = landmarks(project, "fetch", "oxford", "--url", served + SERVED["oxford"])
    assert "18 photos in data/oxford/images; 5063 are published" in said
    assert "dvc add data/oxford/images" in said
    said = landmarks(project, "ground-truth", "oxford", "oxford", "--url", served + SERVED["oxford truth"])
    assert "data/oxford/ground_truth.csv: 2 queries, 4 good, 1 ok, 1 junk" in said
    project.dvc("add", "data/oxford/images")
    project.set(dataset="oxford", split__method="ground_truth")
    project.dvc("repro", "split")

    assert [row["class_image"] for row in rows(project, "data/catalog.csv")] == [
        name for name in ("all_souls", "ashmolean", "oxford") for _ in range(6)
    ]
    box = {"x1": "20.5", "y1": "10.2", "x2": "290", "y2": "900.7"}
    queries = [name.removeprefix("oxc1_") for name in OXFORD]
    assert rows(project, "data/splits/test.csv") == [
        {"image_path": f"data/oxford/images/{name[:-7]}/{name}.jpg", "class_image": name[:-7], **box}
        for name in queries
    ]
    index = [Path(row["image_path"]).stem for row in rows(project, "data/splits/index.csv")]
    assert len(index) == 16
    assert not set(index) & set(queries)


@pytest.mark.slow
def test_paris_from_its_archives_to_the_figures_of_both_protocols(without_photos: Project, served: str):
    project = without_photos
    urls = [served + SERVED[name] for name in ("paris 1", "paris 2")]
    said = landmarks(project, "fetch", "paris", "--url", urls[0], "--url", urls[1])
    assert "19 photos in data/paris/images; 6412 are published" in said
    assert "1 of them were published broken" in said

    # As Paris6k was published: the queries are searched too.
    landmarks(project, "ground-truth", "oxford", "paris", "--url", served + SERVED["paris truth"])
    project.set(dataset="paris", split__method="ground_truth")
    project.set(evaluate__protocol="oxford", evaluate__queries_in_index=True, evaluate__bootstrap=0)
    log = project.run("dvc", "repro").stderr
    assert "1 files rejected (1 were published broken)" in log
    assert "1 photos of the ground truth were rejected; none will be found" in log
    [rejected] = rows(project, "data/rejected.csv")
    assert rejected["path"] == f"data/paris/images/louvre/{BROKEN}.jpg"
    queries_are_cropped(project)

    found = rankings(project)
    scores = [
        area_under_curve(found[query], {*grades["good"], *grades["ok"]}, {*grades.get("junk", [])})
        for query, grades in PARIS.items()
    ]
    assert metrics(project) == {
        "map_oxford": pytest.approx(fmean(scores), abs=2e-6),
        "queries_oxford": 2,
        "positives_oxford": 7,
        "junk_oxford": 3,
        "queries": 2,
        "index": 18,
    }

    landmarks(project, "ground-truth", "revisited", "paris", "--url", served + SERVED["revisited"])
    project.set(evaluate__protocol="revisited", evaluate__queries_in_index=False)
    assert "model" not in project.stages_run("repro", "evaluate")
    assert metrics(project) == pytest.approx(revisited(rankings(project)), abs=2e-6)


def queries_are_cropped(project: Project) -> None:
    """What was described of a query is what Pillow cuts out of the photo."""
    query = project.root / "data/paris/images/defense/paris_defense_000000.jpg"
    cut = io.BytesIO()
    with Image.open(query) as photo:
        assert photo.height < BOX[3], "the box must reach out of the photo to show that it is clipped"
        photo.crop((20, 10, 290, photo.height)).save(cut, "PNG")
    [[described]] = describers.read(project.root / "models/model.safetensors").describe([cut.getvalue()], 1)
    with h5py.File(project.root / "features/test.h5") as file:
        np.testing.assert_allclose(file["features"][0], described, atol=1e-6)
        assert file["box"][0].tolist() == list(BOX)
    with h5py.File(project.root / "features/index.h5") as file:
        row = [path.decode() for path in file["image_path"][:]].index(str(query.relative_to(project.root)))
        assert np.abs(file["features"][row] - described).max() > 1e-4


def revisited(found: dict[str, list[str]]) -> dict[str, float]:
    ways = {
        "easy": (("easy",), ("junk", "hard")),
        "medium": (("easy", "hard"), ("junk",)),
        "hard": (("hard",), ("junk", "easy")),
    }
    figures = {"queries": 2, "index": 16}
    for setup, kinds in ways.items():
        scores, counts = [], [0, 0]
        for query, grades in REVISITED.items():
            positives, junk = (
                {f"{query[:-1]}{number}" for kind in some for number in grades[kind]} for some in kinds
            )
            counts = [counts[0] + len(positives), counts[1] + len(junk)]
            if positives:
                at = [precision_at(found[query], positives, junk, k) for k in (1, 5, 10)]
                scores.append([area_under_curve(found[query], positives, junk), *at])
        names = [f"{name}_{setup}" for name in ("map", "mp_at_1", "mp_at_5", "mp_at_10")]
        figures |= dict(zip(names, map(fmean, zip(*scores, strict=True)), strict=True))
        figures |= {
            f"queries_{setup}": len(scores),
            f"positives_{setup}": counts[0],
            f"junk_{setup}": counts[1],
        }
    assert figures["queries_easy"] == 1, "a query without positives must be left out of the mean"
    return figures


def test_a_ground_truth_that_is_not_there_is_an_error_that_says_how_to_make_one(at_first: Project):
    at_first.set(split__method="ground_truth")
    done = at_first.run("dvc", "repro", "create_csv", check=False)
    assert done.returncode != 0
    assert "data/demo/ground_truth.csv: no such file, but split.method is ground_truth" in done.stderr
    assert "Traceback" not in done.stderr
