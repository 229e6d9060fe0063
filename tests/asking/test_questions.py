import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from time import sleep

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks import params
from landmarks.asking.questions import FEATURES, MODEL, Index
from landmarks.describing import describers
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.reranking import k_reciprocal
from landmarks.reranking.reranker import Reranker
from landmarks.searching import rankings

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
INF = float("inf")


def index_of(vectors, classes, kind="resnet", root=Path(), **options):
    """An index of photos 0, 1, ... with `options` instead of the parameters of the same names."""
    sections = PARAMS.model_dump()
    for name, value in options.items():
        section, _, key = name.rpartition("__")
        (sections[section] if section else sections)[key] = value
    photos = [Photo(str(row), name) for row, name in enumerate(classes)]
    return Index(
        root, params.Params.model_validate(sections), np.array(vectors, np.float32), photos, {"kind": kind}
    )


@st.composite
def questions(draw):
    rows = draw(st.integers(1, 8))
    vector = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    return {
        "vectors": draw(st.lists(vector, min_size=rows, max_size=rows)),
        "classes": draw(st.lists(st.sampled_from("ABC"), min_size=rows, max_size=rows)),
        "queries": draw(st.lists(vector, min_size=0, max_size=3)),
        "own": draw(st.none() | st.integers(0, 8)),
        "kind": draw(st.sampled_from(["resnet", "vlad"])),
        "rerank": draw(st.sampled_from(["one", "two"])),
        "top": draw(st.integers(1, 9)),
        "depth": draw(st.none() | st.integers(1, 9)),
        "vote_depth": draw(st.integers(1, 5)),
        "reject_above": draw(st.none() | st.integers(0, 4)),
    }


@settings(deadline=None, max_examples=300)
@given(questions())
def test_answers_are_what_sorting_counting_and_comparing_give(q):
    index = index_of(
        q["vectors"],
        q["classes"],
        q["kind"],
        retrieve__depth=q["depth"],
        rerank_options__vote_depth=q["vote_depth"],
        evaluate__reject_above=q["reject_above"],
    )
    own = None if q["own"] is None else str(q["own"])
    descriptors = np.array(q["queries"], np.float32).reshape(-1, 2)
    answers = index.answer(descriptors, "L1", q["rerank"], q["top"], [own] * len(descriptors))
    assert len(answers) == len(q["queries"])
    for query, answer in zip(q["queries"], answers, strict=True):
        ranking = []
        for row, vector in enumerate(q["vectors"]):
            distance = abs(query[0] - vector[0]) + abs(query[1] - vector[1])
            blank = q["kind"] == "vlad" and not (any(query) and any(vector))
            if row != q["own"]:
                ranking.append((INF if blank else distance, row))
        ranking = sorted(ranking)[: min(len(q["vectors"]), q["depth"] or 100)]
        nearest = min((distance for distance, _ in ranking), default=INF)
        voters = [q["classes"][row] for distance, row in ranking[: q["vote_depth"]] if distance < INF]
        votes = sorted(Counter(voters).items(), key=lambda vote: (-vote[1], vote[0]))
        winner = votes[0][0] if votes else None
        if q["rerank"] == "two":
            ranking.sort(key=lambda found: q["classes"][found[1]] != winner)
        assert list(answer.votes.items()) == votes
        assert answer.nearest == nearest
        limit = INF if q["reject_above"] is None else q["reject_above"]
        assert answer.landmark == (winner if nearest <= limit else None)
        assert [(r.rank, r.distance, r.row, r.photo) for r in answer.results] == [
            (rank, distance, row, index.photos[row])
            for rank, (distance, row) in enumerate(ranking[: q["top"]], 1)
        ]


def test_distance_and_rerank_are_those_of_the_parameters_unless_told_otherwise():
    vectors, query = [[0, 3], [2, 2], [2, 2]], np.zeros((1, 2), np.float32)
    index = index_of(vectors, "ABB", distance="L2", rerank="two")
    assert [r.row for r in index.answer(query)[0].results] == [1, 2, 0]
    assert [r.row for r in index.answer(query, rerank="one")[0].results] == [1, 2, 0]
    assert [r.row for r in index.answer(query, "L1", "one")[0].results] == [0, 1, 2]
    assert [r.row for r in index.answer(query, "L1")[0].results] == [1, 2, 0]


@pytest.mark.parametrize("chain", ["one", "two", "aqe+two", "k_reciprocal"])
def test_as_many_are_answered_at_a_time_as_the_memory_has_room_for(monkeypatch, chain):
    random = np.random.default_rng(0)
    index, asked = index_of(random.random((20, 4)), "ABCDE" * 4, retrieve__memory=1), random.random((10, 4))
    whole, nearest = index.answer(asked, rerank=chain, top=20), rankings.nearest
    together = []

    def watched(descriptors, *arguments):
        together.append(len(descriptors))
        return nearest(descriptors, *arguments)

    monkeypatch.setattr(rankings, "nearest", watched)
    for result, most in ((1 << 20, 1), ((1 << 20) // 60, 3), (96, 10)):
        together.clear()
        monkeypatch.setattr(Reranker, "bytes_a_result", result)
        assert index.answer(asked, rerank=chain, top=20) == whole
        assert max(together) == most
        assert sum(together) == len(asked)


@pytest.mark.parametrize(("memory", "needed"), [(1, 6), (5, 6), (6, 0), (256, 0)])
def test_the_memory_is_that_of_the_parameters(monkeypatch, caplog, memory, needed):
    monkeypatch.setattr(k_reciprocal, "bytes_of", lambda _: 3 << 20)
    index = index_of(np.eye(4), "ABBA", retrieve__memory=memory)
    index.answer(np.ones((1, 4), np.float32), rerank="k_reciprocal")
    messages = [record.getMessage() for record in caplog.records]
    assert [f"set it to {needed}, or" in message for message in messages] == [True] * (needed > 0)


def test_what_is_infinitely_far_is_null_in_json():
    index = index_of([[0, 0], [3, 4]], "AB", kind="vlad")
    answers = index.answer(np.array([[0, 1], [0, 0]], np.float32), "L2", "one")
    near, none = (json.loads(json.dumps(answer.as_json(), allow_nan=False)) for answer in answers)
    assert near["landmark"] == "B"
    assert near["votes"] == {"B": 1}
    assert near["nearest"] == pytest.approx(18**0.5)
    assert none["landmark"] is none["nearest"] is none["results"][0]["distance"] is None
    assert near["results"][1] == {
        "rank": 2,
        "row": 0,
        "image_path": "0",
        "class_image": "A",
        "distance": None,
    }


def test_many_threads_get_each_their_own_answer(built):
    index = Index.open(built)
    rows = list(range(len(index.photos))) * 20

    def ask(row):
        descriptor = index.describe([built / index.photos[row].image_path])
        return index.answer(descriptor, paths=[None])[0]

    expected = [ask(row) for row in range(len(index.photos))]
    with ThreadPoolExecutor(10) as pool:
        for row, answer in zip(rows, pool.map(ask, rows), strict=True):
            assert answer == expected[row]


def test_the_model_is_read_once_and_describes_for_one_thread_at_a_time(monkeypatch):
    class Alone:
        busy = False

        def describe(self, photos, batch_size):
            for photo in photos:
                assert not self.busy
                self.busy = True
                sleep(0.002)
                yield np.full((1, 2), int(photo), np.float32)
                self.busy = False

    models = []

    def read(path, **execution):
        models.append(Alone())
        sleep(0.02)
        return models[-1]

    monkeypatch.setattr(describers, "read", read)
    index = index_of([[0, 0]], "A")
    photos = [[b"%d" % (3 * thread + number) for number in range(3)] for thread in range(8)]
    together = Barrier(len(photos))

    def describe(own):
        together.wait()
        return index.describe(own)

    with ThreadPoolExecutor(len(photos)) as pool:
        for own, found in zip(photos, pool.map(describe, photos), strict=True):
            assert found.tolist() == [[int(photo)] * 2 for photo in own]
    assert len(models) == 1


def test_the_built_index_knows_its_landmarks(built):
    index = Index.open(built)
    answers = index.answer(index.describe([built / "queries" / f"{number}.png" for number in range(3)]))
    assert [answer.landmark for answer in answers] == ["castle", "故宫", "tower, old"]


def test_bytes_are_described_like_the_file(built):
    path = built / "queries/1.png"
    index = Index.open(built)
    np.testing.assert_array_equal(index.describe([path.read_bytes()]), index.describe([path]))


def test_a_photo_of_the_index_is_not_its_own_result_however_its_path_is_written(built, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(built)
    monkeypatch.chdir(built)
    index = Index.open()
    name = index.photos[0].image_path
    ways = [name, f"./queries/../{name}", built / name, tmp_path / "link" / name]
    for (way, answer), again in zip(index.answer_each([Path(way) for way in ways]), ways, strict=True):
        assert str(way) == str(Path(again))
        assert 0 not in [result.row for result in answer.results]
    copy = tmp_path / "copy.jpg"
    shutil.copyfile(name, copy)
    ((_, answer),) = index.answer_each([copy])
    assert (answer.results[0].row, answer.nearest) == (0, 0)
    assert index.path_of(copy) is None


def test_photos_that_do_not_decode_are_told_in_their_places_and_the_rest_is_answered(built, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    good = [built / "queries" / f"{number}.png" for number in range(3)]
    photos = [
        good[0],
        tmp_path / "text.jpg",
        tmp_path / "gone.jpg",
        tmp_path,
        good[1],
        good[2],
        *[tmp_path / "x"] * 3,
    ]
    index = Index.open(built)
    answers = dict(zip(good, index.answer(index.describe(good)), strict=True))
    answered = list(index.answer_each(photos))
    assert [photo for photo, _ in answered] == photos
    for photo, answer in answered:
        if photo in answers:
            assert answer == answers[photo]
        else:
            assert isinstance(answer, InputError)
            assert str(answer).startswith(f"{photo}: ")
    assert "not an image in one of the formats" in str(answered[1][1])
    assert "no such file" in str(answered[2][1])
    assert "not a regular file" in str(answered[3][1])


@pytest.mark.parametrize("missing", [params.PATH, MODEL, FEATURES])
def test_a_missing_file_is_named(built, tmp_path, missing):
    root = shutil.copytree(built, tmp_path / "root")
    (root / missing).unlink()
    with pytest.raises(InputError, match=rf"{missing}: no such file; .*(dvc repro|root of the repository)"):
        Index.open(root)


def test_a_model_that_the_system_does_not_give_is_told(built, unreadable):
    unreadable(built / MODEL)
    with pytest.raises(InputError, match=rf"{MODEL}: cannot be read \(Permission denied\)$"):
        Index.open(built)


def test_a_folder_in_the_place_of_the_model_is_told(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "root")
    (root / MODEL).unlink()
    (root / MODEL).mkdir()
    with pytest.raises(InputError, match=rf"{MODEL}: cannot be read \(Is a directory\)$"):
        Index.open(root)


def test_a_model_other_than_that_of_the_index_is_refused(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "root")
    with (root / MODEL).open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=r"features/index\.h5: made by another model .*`dvc repro`"):
        Index.open(root)


def test_asking_with_a_descriptor_imports_no_torch(built):
    code = (
        "import sys; from landmarks.asking.questions import Index; "
        "index = Index.open(); index.answer(index.features[:2]); "
        "assert 'h5py' in sys.modules; sys.exit('torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], cwd=built, env=env).returncode == 0
