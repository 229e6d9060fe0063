"""The stages under DVC: what runs when, and that the figures are what they claim to be."""

import csv
import json
import re
import shutil
import sys

import h5py
import numpy as np
import pytest

from .conftest import Project

LATER = ["retrieve", "rerank", "evaluate", "gallery"]


def metrics(project: Project) -> dict[str, float]:
    return json.loads((project.root / "reports/metrics.json").read_text())


def test_a_second_repro_runs_nothing_and_leaves_git_clean(at_first: Project):
    assert at_first.stages_run("repro") == []
    assert at_first.run("git", "status", "--porcelain").stdout == ""


def test_every_photo_is_in_exactly_one_part(project: Project):
    def paths(name: str) -> list[str]:
        with (project.root / "data" / name).open(encoding="utf-8", newline="") as file:
            return [row["image_path"] for row in csv.DictReader(file)]

    parts = [paths(f"splits/{part}.csv") for part in ("train", "val", "test", "index")]
    assert [len(part) for part in parts] == [60, 10, 20, 10]
    assert sorted(path for part in parts for path in part) == paths("catalog.csv")


def test_an_experiment_on_distance_and_rerank_runs_from_retrieve_on(at_first: Project):
    ran = at_first.stages_run("exp", "run", "-S", "distance=L2", "-S", "rerank=two")
    assert sorted(ran) == sorted(LATER)


def test_rerank_alone_does_not_search_again(at_first: Project):
    at_first.set(rerank="two")
    assert "retrieve" not in at_first.stages_run("repro")


def test_methods_are_joined_in_an_experiment_and_run_from_rerank_on(at_first: Project):
    ran = at_first.stages_run("exp", "run", "-S", "rerank=dba+geometric+aqe+k_reciprocal+two")
    assert sorted(ran) == ["evaluate", "gallery", "rerank"]
    with h5py.File(at_first.root / "rankings/reranked.h5") as file:
        assert file.attrs["rerank"] == "dba+geometric+aqe+k_reciprocal+two"
        assert (np.sort(file["rows"]) == np.arange(10)).all()


@pytest.mark.slow
def test_stages_that_only_search_and_score_start_without_what_is_slow_to_import(at_first: Project):
    code = (
        "import runpy, sys; runpy.run_module(sys.argv[1], run_name='__main__'); "
        "print(sorted({'torch', 'pandas'}.intersection(sys.modules)))"
    )
    for stage, slow in (("retrieve", []), ("rerank", []), ("evaluate", ["pandas"])):
        told = at_first.run(sys.executable, "-c", code, f"stages.{stage}").stdout
        assert set(eval(told.splitlines()[-1])) <= set(slow), stage


def test_another_backbone_and_back_is_restored_from_the_cache(at_first: Project):
    first = metrics(at_first)
    at_first.set(backbone="resnet18", weights="random")
    assert "model" in at_first.stages_run("repro")
    assert metrics(at_first)["map"] < first["map"]
    at_first.set(backbone="efficientnet_lite0", weights="imagenet")
    assert at_first.stages_run("repro") == []
    assert metrics(at_first) == first


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model=finetund", "model: 'finetund' is not allowed: input should be 'pretrained', 'finetuned' or"),
        ("dataset=paris", "data/paris/images: no such folder; expected one folder of photos per landmark"),
        ("+retrieve.dept=3", "retrieve.dept: no such parameter; did you mean depth?"),
        ("distanse=L2", "Could not override 'distanse'"),
    ],
)
def test_a_mistyped_parameter_is_refused(at_first: Project, setting: str, message: str):
    done = at_first.run("dvc", "exp", "run", "-S", setting, check=False)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_new_photo_is_seen_in_linked_images_of_a_dataset_of_any_name(
    at_first: Project, make_photo, tmp_path
):
    images = at_first.root / "data/我的 照片/images"
    names = ["a/1.jpg", "b/2.jpg"]
    for number, name in enumerate(names):
        make_photo(tmp_path / name, number)
    images.parent.mkdir()
    images.symlink_to(tmp_path, target_is_directory=True)
    try:
        ran = at_first.stages_run("exp", "run", "-S", 'dataset="我的 照片"', "create_csv")
        assert ran == ["create_csv"]
        lines = (at_first.root / "data/catalog.csv").read_text(encoding="utf-8").splitlines()
        rows = [line.rpartition(",")[0] for line in lines[1:]]  # but for the digest
        assert rows == [f"data/我的 照片/images/{name},{name[0]}" for name in names]
        assert "up to date" in at_first.dvc("status", "create_csv")
        make_photo(tmp_path / "b/3.jpg", 3)
        assert re.search("modified: +data/我的 照片/images", at_first.dvc("status", "create_csv"))
    finally:
        shutil.rmtree(images.parent)


def test_a_photo_replaced_in_place_is_described_again(at_first: Project):
    photo = next((at_first.root / "data/demo/images").rglob("*.jpg"))
    content = photo.read_bytes()
    photo.unlink()  # it may be a link into the cache
    photo.write_bytes(content + b"\0")
    try:
        assert "extract@index" in at_first.dvc("status")
    finally:
        photo.unlink()
        photo.write_bytes(content)


@pytest.mark.parametrize("distance", ["L1", "L3"])
def test_the_figures_equal_an_independent_computation(at_first: Project, distance: str):
    at_first.set(distance=distance)
    for rerank in ("one", "two"):
        at_first.set(rerank=rerank)
        at_first.dvc("repro", "evaluate")
        expected = figures(at_first, distance, rerank)
        got = metrics(at_first)
        assert {name: got[name] for name in expected} == pytest.approx(expected, abs=2e-6)


def figures(project: Project, distance: str, rerank: str) -> dict[str, float]:
    """Accuracy, mAP and map_reference from the features alone, in plain NumPy and Python."""

    def read(part: str) -> tuple[np.ndarray, list[str]]:
        with h5py.File(project.root / f"features/{part}.h5") as file:
            classes = [name.decode() for name in file["class_image"][:]]
            return file["features"][:].astype(np.float64), classes

    queries, query_classes = read("test")
    index, index_classes = read("index")
    right, precisions, references = [], [], {}
    for query, truth in zip(queries, query_classes, strict=True):
        if distance == "L1":
            distances = np.abs(index - query).sum(axis=1)
        elif distance == "L2":
            distances = np.sqrt(((index - query) ** 2).sum(axis=1))
        else:
            lengths = np.sqrt((index**2).sum(axis=1)) * np.sqrt((query**2).sum())
            distances = 1 - index @ query / lengths
        found = [index_classes[row] for row in np.argsort(distances.astype(np.float32), kind="stable")]
        voted = min(found[:3], key=lambda name: (-found[:3].count(name), name))
        if rerank == "two":
            found = [name for name in found if name == voted] + [name for name in found if name != voted]
        right.append(voted == truth)
        hits = [rank for rank, name in enumerate(found, 1) if name == truth]
        precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(hits)]))
        at = [found[:k].count(truth) / k for k in range(1, 6)]
        references.setdefault(truth, []).append(np.mean(at) if found[0] == truth else 0.0)
    return {
        "accuracy": np.mean(right),
        "map": np.mean(precisions),
        "map_reference": np.mean([np.mean(values) for values in references.values()]),
    }


@pytest.mark.parametrize(
    "command",
    [
        ["metrics", "diff"],
        ["params", "diff"],
        ["exp", "show", "--only-changed", "--no-pager"],
        ["plots", "show"],
        ["plots", "diff", "HEAD"],
    ],
)
def test_the_ways_of_looking_at_results_work(at_first: Project, command: list[str]):
    at_first.dvc(*command)


@pytest.mark.slow
def test_a_queued_experiment_has_the_photos_that_were_committed(at_first: Project, make_photo):
    """What the README says of `git add` alone, and the words of the error."""
    images = at_first.root / "data/mine/images"
    track = "dvc add data/mine/images && git add data/mine/images.dvc"
    try:
        for number, name in enumerate(["a/1.jpg", "b/2.jpg"]):
            make_photo(images / name, number)
        at_first.run("sh", "-c", track)
        at_first.dvc("exp", "run", "-S", "distance=L2", "check")
        at_first.run("git", "checkout", "params.yaml")
        lacking = at_first.run("dvc", "exp", "run", "--temp", "-S", "dataset=mine", check=False)
        assert lacking.returncode != 0
        assert f"so first: {track} && git commit -m 'Add photos'" in lacking.stderr
        at_first.run("sh", "-c", f"{track} && git commit --quiet -m 'Add photos'")
        at_first.dvc("exp", "run", "--temp", "-S", "dataset=mine", "check", "create_csv")
        at_first.run("git", "reset", "--quiet", "HEAD~1")
    finally:
        shutil.rmtree(images.parent)
