"""A question on the command line has the answer that the pipeline gives."""

import json
import sys

import numpy as np
import pytest

from landmarks.searching import rankings

from .conftest import Project


@pytest.mark.parametrize(("distance", "rerank"), [("L1", "one"), ("L3", "two")])
def test_query_answers_as_the_pipeline_ranks(at_first: Project, distance: str, rerank: str):
    at_first.set(distance=distance, rerank=rerank)
    at_first.dvc("repro", "rerank")
    with rankings.opened(at_first.root / "rankings/reranked.h5") as ranked:
        queries, predicted = ranked.queries, ranked.predicted
        rows, distances = ranked.rows[:], ranked.distances[:]
        index = ranked.index

    code = "from landmarks.asking.cli import main; main()"
    photos = [photo.image_path for photo in queries]
    asked = [sys.executable, "-c", code, "query", "--json", "--top", str(len(index)), *photos]
    answers = [json.loads(line) for line in at_first.run(*asked).stdout.splitlines()]
    assert [answer["photo"] for answer in answers] == photos
    assert [answer["landmark"] for answer in answers] == predicted
    for answer, row, distance in zip(answers, rows, distances, strict=True):
        results = answer["results"]
        assert [result["row"] for result in results] == row.tolist()
        assert [(result["image_path"], result["class_image"]) for result in results] == [
            index[r][:2] for r in row
        ]
        np.testing.assert_allclose([result["distance"] for result in results], distance, rtol=1e-5)


def test_the_summary_has_the_figures_and_names_a_query(at_first: Project):
    told = json.loads(at_first.run(sys.executable, "-m", "landmarks", "summary", "--json").stdout)
    assert told["metrics"] == json.loads((at_first.root / "reports/metrics.json").read_text())
    assert told["photo"] in (at_first.root / "data/splits/test.csv").read_text()
    assert (at_first.root / told["photo"]).is_file()
