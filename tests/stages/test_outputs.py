"""What the stages write, worked out by other means from what they read."""

import csv
import hashlib
import html
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image, ImageColor
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, confusion_matrix, recall_score

from landmarks.describing import describers
from landmarks.scoring import gallery

from .inprocess import SMALL, draw_photos, run, stages, updated, write_params

CHOSEN = {
    "backbone": "test_efficientnet",
    "weights": "random",
    "distance": "L2",
    "rerank": "one",
    "model": "pretrained",
    "extract": {"batch_size": 2, "whitening": "none"},
    "split": {"train": 0.1, "val": 0.1, "test": 0.3, "index": 0.5, "near_copies": "ignore"},
    "evaluate": {"bootstrap": 200},
    "gallery": {"queries": 4, "results": 5, "matches": False},
}


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory):
    """All stages have run; it is the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("outputs"))
        draw_photos(Path("data/mine/images"), landmarks=4, each=12)
        write_params(**updated(SMALL, CHOSEN))
        for stage in stages("pretrained", "mine"):
            if stage.name != "demo":
                assert run(stage) is None
        yield


def table(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def store(path):
    with h5py.File(path) as file:
        return {
            name: list(rows.asstr()[:]) if h5py.check_string_dtype(rows.dtype) else rows[:]
            for name, rows in file.items()
        }


def ranked():
    """Of each query: its path and class, the class voted for it, and its results: distance, path, class."""
    found = store("rankings/reranked.h5")
    paths, names = found["index_image_path"], found["index_class_image"]
    of_queries = zip(found["query_image_path"], found["query_class_image"], found["predicted"], strict=True)
    for query, rows, distances in zip(of_queries, found["rows"], found["distances"], strict=True):
        yield *query, [(far, paths[row], names[row]) for row, far in zip(rows, distances, strict=True)]


def precisions():
    """The average precision of each query, by scikit-learn, to which a higher score is better."""
    return [
        average_precision_score([name == of for *_, name in results], -np.arange(len(results)))
        for _, of, _, results in ranked()
    ]


def test_the_catalog_is_what_lies_in_the_folders():
    files = sorted(Path("data/mine/images").rglob("*.jpg"), key=lambda path: path.as_posix())
    assert table("data/catalog.csv") == [
        {
            "image_path": path.as_posix(),
            "class_image": path.parent.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]


def test_the_parts_have_their_shares_of_each_landmark():
    parts = {part: table(f"data/splits/{part}.csv") for part in ("train", "val", "test", "index")}
    rows = sorted((row["image_path"], row["class_image"]) for members in parts.values() for row in members)
    assert rows == [(row["image_path"], row["class_image"]) for row in table("data/catalog.csv")]
    totals = Counter(name for _, name in rows)
    for part, members in parts.items():
        for name, count in Counter(row["class_image"] for row in members).items():
            assert abs(count - CHOSEN["split"][part] * totals[name]) <= 1


@pytest.mark.parametrize("part", ["index", "test"])
def test_each_row_of_the_features_describes_its_photo(part):
    described = store(f"features/{part}.h5")
    rows = table(f"data/splits/{part}.csv")
    assert described["image_path"] == [row["image_path"] for row in rows]
    assert described["class_image"] == [row["class_image"] for row in rows]
    model = describers.read(Path("models/model.safetensors"))
    alone = np.concatenate([next(model.describe([Path(row["image_path"])], 1)) for row in rows])
    np.testing.assert_allclose(described["features"], alone, atol=1e-6)
    assert len(np.unique(alone.round(5), axis=0)) == len(rows)


def test_the_rankings_are_by_distance():
    queries, index = store("features/test.h5"), store("features/index.h5")
    found = store("rankings/retrieved.h5")
    distances = cdist(queries["features"], index["features"])
    order = np.argsort(distances, axis=1)
    np.testing.assert_allclose(found["distances"], np.take_along_axis(distances, order, 1), rtol=1e-3)
    assert (found["rows"] == order).mean() > 0.95  # but for those that are equally far in float32
    assert found["query_image_path"] == queries["image_path"]
    assert found["index_image_path"] == index["image_path"]


def test_the_landmark_is_that_of_most_of_the_first_three():
    before = store("rankings/retrieved.h5")
    for query, (path, of, voted, results) in enumerate(ranked()):
        names = [name for *_, name in results]
        assert voted == max(sorted(set(names[:3])), key=names[:3].count)
        assert [found for _, found, _ in results] == [
            before["index_image_path"][row] for row in before["rows"][query]
        ]
        np.testing.assert_array_equal([far for far, *_ in results], before["distances"][query])
        assert (path, of) == (before["query_image_path"][query], before["query_class_image"][query])


def test_the_first_results_are_listed():
    expected = [
        (path, of, voted, str(rank), f"{far:.6g}", found, name)
        for path, of, voted, results in ranked()
        for rank, (far, found, name) in enumerate(results[:10], 1)
    ]
    assert [tuple(row.values()) for row in table("reports/results.csv")] == expected


def test_the_figures_of_each_landmark():
    actual, predicted = zip(*((of, voted) for _, of, voted, _ in ranked()), strict=True)
    assert table("reports/plots/confusion.csv") == [
        {"actual": of, "predicted": voted} for of, voted in zip(actual, predicted, strict=True)
    ]
    names = sorted(set(actual))
    by_class = defaultdict(list)
    for of, precision in zip(actual, precisions(), strict=True):
        by_class[of].append(precision)
    rows = table("reports/plots/classes.csv")
    assert [row["class"] for row in rows] == names
    assert [int(row["queries"]) for row in rows] == [actual.count(name) for name in names]
    recalls = recall_score(actual, predicted, labels=names, average=None, zero_division=0)
    np.testing.assert_allclose([float(row["accuracy"]) for row in rows], recalls, atol=1e-6)
    means = [np.mean(by_class[name]) for name in names]
    np.testing.assert_allclose([float(row["average_precision"]) for row in rows], means, atol=1e-6)
    assert np.abs(recalls - means).max() > 0.1  # or they could be exchanged
    table_of = confusion_matrix(actual, predicted, labels=names)
    assert (table_of != table_of.T).any()


def test_the_curve_is_the_best_precision_at_each_recall_or_a_higher_one():
    curves = []
    for _, of, _, results in ranked():
        hits = np.array([name == of for *_, name in results])
        recall, precision = hits.cumsum() / hits.sum(), hits.cumsum() / np.arange(1, len(hits) + 1)
        curves.append([max(precision[recall > at / 100 - 1e-9]) for at in range(101)])
    rows = table("reports/plots/precision_recall.csv")
    assert [row["recall"] for row in rows] == [f"{at / 100:.2f}" for at in range(101)]
    np.testing.assert_allclose([float(row["precision"]) for row in rows], np.mean(curves, axis=0), atol=1e-6)


def test_the_figures_of_all():
    told = json.loads(Path("reports/metrics.json").read_text())
    queries = list(ranked())
    hits = np.array([[name == of for *_, name in results] for _, of, _, results in queries])
    index = store("features/index.h5")["class_image"]
    at = np.stack([hits[:, :k].mean(axis=1) for k in range(1, 6)])
    of_query = at.mean(axis=0) * hits[:, 0]
    classes = [of for _, of, _, _ in queries]
    expected = {
        "accuracy": np.mean([voted == of for _, of, voted, _ in queries]),
        "map": np.mean(precisions()),
        "map_reference": np.mean([of_query[[of == name for of in classes]].mean() for name in set(classes)]),
        "precision_at_1": at[0].mean(),
        "precision_at_5": at[4].mean(),
        "recall_at_5": hits[:, :5].any(axis=1).mean(),
        "queries": len(queries),
        "index": len(index),
        "positives": sum(index.count(of) for of in classes),
    }
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert told["map_low"] < told["map"] < told["map_high"]
    assert len(set(expected.values())) == len(expected)  # or they could be exchanged


def sections():
    """Of each section of the page its rows: the lines below each photo, and the word of its frame."""
    page = Path("reports/gallery/index.html").read_text(encoding="utf-8")
    for body in page.split("<h2>")[1:]:
        rows = []
        for row in body.split("<ol>")[1:]:
            items = re.findall(r'<li class="(\w*)">.*?<figcaption>(.*?)</figcaption>', row)
            lines = [re.findall(r"<bdi>(.*?)</bdi>", html.unescape(below)) for _, below in items]
            rows.append([(word, below) for (word, _), below in zip(items, lines, strict=True)])
        yield rows


def test_the_page_and_the_sheets_show_queries_with_their_first_results():
    sample, worst = sections()
    queries = []
    for precision, (_, of, voted, results) in zip(precisions(), ranked(), strict=True):
        shown = [("right" if name == of else "wrong", [name, f"{far:.4f}"]) for far, _, name in results[:5]]
        queries.append([("", [of, f"AP {precision:.2f}, taken for {voted}"]), *shown])
    assert worst == [queries[query] for query in np.argsort(precisions(), kind="stable")[:4]]
    assert all(row in queries for row in sample)
    for name, rows in (("sample", sample), ("worst", worst)):
        assert len({str(row) for row in rows}) == 4
        for number, row in enumerate(rows, 1):
            words = list(frames(f"reports/gallery/{name}/{number:02}.jpg", len(row)))
            assert words == [word for word, _ in row]


def frames(path, count):
    """The word for the colour of the frame of each tile."""
    words = {gallery.RIGHT: "right", gallery.WRONG: "wrong", gallery.QUERY: ""}
    step = gallery.TILE[0] + 2 * gallery.FRAME + gallery.GAP
    with Image.open(path) as sheet:
        for place in range(count):
            seen = np.array(sheet.getpixel((gallery.GAP + place * step + 2, gallery.GAP + 60)))
            far = {colour: np.abs(seen - ImageColor.getrgb(colour)).sum() for colour in words}
            yield words[min(far, key=far.__getitem__)]
