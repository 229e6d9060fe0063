"""What the stage `evaluate` says of rankings in which there is no order."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from landmarks import tables
from landmarks.photos import ground_truth
from landmarks.photos.catalog import Photo
from landmarks.scoring import reports
from landmarks.searching import rankings
from landmarks.searching.rankings import Block
from landmarks.searching.search import top_k
from stages import evaluate

LANDMARKS = ["bridge", "castle", "gate", "tower"]


def photos(each, of):
    return [Photo(f"{name}/{of}{number}.jpg", name) for name in LANDMARKS for number in range(each)]


def evaluated(queries, vectors, index, index_vectors, depth=None):
    """The metrics of the stage, from rankings by L1."""
    shutil.copy(Path(__file__).parents[2] / "params.yaml", ".")
    depth = depth or len(index)
    distances, rows = top_k(vectors, index_vectors, "L1", depth)
    blocks = [Block(rows.astype(np.int32), distances)]
    voted = [index[row[0]].class_image for row in rows]
    attributes = {"distance": "L1", "rerank": "one"}
    rankings.write(Path("rankings/reranked.h5"), queries, index, depth, blocks, attributes, voted)
    ground_truth.write(Path("data/ground_truth.csv"), {})
    evaluate.main()
    return json.loads(Path("reports/metrics.json").read_text())


def described(of, random, noise):
    """Descriptors around a direction of each landmark."""
    centres = np.eye(len(LANDMARKS), 16)
    means = np.array([centres[LANDMARKS.index(photo.class_image)] for photo in of])
    return (means + noise * random.random(means.shape)).astype(np.float32)


@pytest.mark.parametrize("depth", [None, 5, 2])
@pytest.mark.parametrize("noise", [1e-3, 0.5, 50])
def test_nothing_is_said_of_rankings_that_are_right_or_wrong(tmp_path, monkeypatch, caplog, noise, depth):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    queries, index = photos(6, "q"), photos(5, "i")
    vectors = described(queries, random, noise), described(index, random, noise)
    metrics = evaluated(queries, vectors[0], index, vectors[1], depth)
    assert metrics["precision_at_1"] == 1 if noise < 1 else metrics["precision_at_1"] < 0.9
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("resamples", [0, 10, 1000])
def test_the_interval_of_map_is_told_if_it_is_asked_for(tmp_path, monkeypatch, resamples):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    queries, index = photos(6, "q"), photos(5, "i")
    evaluated(queries, described(queries, random, 5), index, described(index, random, 5))
    options = yaml.safe_load(Path("params.yaml").read_text())
    options["evaluate"]["bootstrap"] = resamples
    Path("params.yaml").write_text(yaml.safe_dump(options))
    evaluate.main()
    metrics = json.loads(Path("reports/metrics.json").read_text())
    assert {"map_low", "map_high"} & set(metrics) == ({"map_low", "map_high"} if resamples else set())
    assert metrics.get("map_low", 0) < metrics["map"] < metrics.get("map_high", 1)


@pytest.mark.parametrize("each", [1, 3, 5])
def test_the_first_ten_results_are_kept_for_people(tmp_path, monkeypatch, each):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    queries, index = photos(2, "q"), photos(each, "i")
    evaluated(queries, described(queries, random, 5), index, described(index, random, 5))
    results = tables.read(Path("reports/results.csv"), reports.HEADERS[reports.RESULTS])
    ranks = list(map(str, range(1, min(10, len(index)) + 1)))
    assert results["rank"].tolist() == ranks * len(queries)


@pytest.mark.parametrize(
    ("alike", "told"), [(24, "24 of 24"), (13, "13 of 24"), (12, None), (1, None)], ids=str
)
def test_photos_that_are_described_alike_are_told(tmp_path, monkeypatch, caplog, alike, told):
    """`alike` of the queries, and enough of the index to be all of their nearest."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    queries, index = photos(6, "q"), photos(5, "i")
    vectors, index_vectors = described(queries, random, 0.5), described(index, random, 0.5)
    vectors[:alike] = 0
    index_vectors[:12] = 0
    metrics = evaluated(queries, vectors, index, index_vectors)
    assert metrics["queries"] == 24
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == (
        [
            f"{told} queries are equally far from all of their nearest results, whose order is then that of "
            "their paths: photos are described alike, and the figures mean nothing"
        ]
        if told
        else []
    )
