import contextlib
import io
import json
import logging
import os
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from landmarks.asking.cli import app
from landmarks.errors import DamagedError, InputError
from landmarks.photos import ground_truth
from landmarks.photos.catalog import Photo
from landmarks.photos.ground_truth import Query

HEADER = "query_path,x1,y1,x2,y2,image_path,relevance\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(text):
    Path("truth.csv").write_text(text, encoding="utf-8")
    return ground_truth.read(Path("truth.csv"))


def test_a_file_written_by_hand_is_read_as_it_says():
    truth = read(
        HEADER + "q.jpg,1,2.5,30,40,a.jpg,good\n"
        "q.jpg,1,2.5,30,40,b.jpg,junk\n"
        "q.jpg,,,,,a.jpg,ok\n"
        '"q,2.jpg",0,0,1e3,7,a.jpg,good\n'
        "q.jpg,1.0,2.5,30.0,40,a.jpg,good\n"
    )
    assert truth == {
        Query("q.jpg", (1, 2.5, 30, 40)): {"a.jpg": "good", "b.jpg": "junk"},
        Query("q.jpg", None): {"a.jpg": "ok"},
        Query("q,2.jpg", (0, 0, 1000, 7)): {"a.jpg": "good"},
    }


corners = st.floats(-1e6, 1e6).map(lambda corner: round(corner, 3))
boxes = st.none() | st.tuples(corners, corners, corners, corners).filter(
    lambda b: b[0] < b[2] and b[1] < b[3]
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=9)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.builds(Query, names, boxes),
        st.dictionaries(names, st.sampled_from(["easy", "hard", "junk"]), min_size=1, max_size=4),
        max_size=4,
    )
)
def test_what_is_written_is_read_again(truth):
    ground_truth.write(Path("truth.csv"), truth)
    assert ground_truth.read(Path("truth.csv")) == truth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,image\n", "the header is 'query,image', expected 'query_path,x1,y1,x2,y2,image_path,relev"),
        (HEADER + "q,1,2,3,4,a\n", "row 2: has 6 columns, expected 7"),
        (HEADER + "q,1,2,3,4,a,good\n,1,2,3,4,a,good\n", "row 3: ['', '1', '2', '3', '4', 'a', 'good'] na"),
        (HEADER + "q,1,2,3,4,,good\n", "names no query or no image"),
        (HEADER + "q,1,2,3,4,a,fine\n", "row 2: the relevance is 'fine'; a file has either good, ok, junk"),
        (HEADER + "q,1,2,3,4,a,good\nq,1,2,3,4,b,hard\n", "row 3: the relevance is 'hard'; a file has"),
        (HEADER + "q,1,2,3,,a,good\n", "row 2: '1,2,3,' is not a box: x1,y1,x2,y2 in pixels"),
        (HEADER + "q,1,2,3,x,a,good\n", "row 2: '1,2,3,x' is not a box"),
        (HEADER + "q,3,2,1,4,a,good\n", "row 2: '3,2,1,4' is not a box: x1,y1,x2,y2 in pixels, x1 < x2"),
        (HEADER + "q,1,2,inf,4,a,good\n", "'1,2,inf,4' is not a box"),
        (HEADER + "q,1,2,nan,4,a,good\n", "'1,2,nan,4' is not a box"),
        (HEADER + "q,1,2,3,4,a,good\nq,1,2,3,4,a,junk\n", "row 3: a is junk here and good above"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_refused_with_the_row_and_what_is_allowed(text, message):
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value).startswith("truth.csv")
    assert message in str(caught.value)


LISTS = {
    "all_souls_1_query.txt": "oxc1_all_souls_000013 136.5 34.1 648.5 955.7\n",
    "all_souls_1_good.txt": "all_souls_000013\nall_souls_000026\n",
    "all_souls_1_ok.txt": "oxford_002904\n",
    "all_souls_1_junk.txt": "",
    "christ_church_5_query.txt": "oxc1_christ_church_000179 0 0 10 20",
    "christ_church_5_good.txt": "christ_church_000180",
    "christ_church_5_ok.txt": "\n",
    "christ_church_5_junk.txt": "all_souls_000026\noxford_002904\n",
}
SAID = {
    Query("all_souls_000013", (136.5, 34.1, 648.5, 955.7)): {
        "all_souls_000013": "good",
        "all_souls_000026": "good",
        "oxford_002904": "ok",
    },
    Query("christ_church_000179", (0, 0, 10, 20)): {
        "christ_church_000180": "good",
        "all_souls_000026": "junk",
        "oxford_002904": "junk",
    },
}


def in_archive(lists, path=Path("gt.tgz")):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {**lists, "README.txt": "not a list"}.items():
            info = tarfile.TarInfo(f"./gt/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def in_folder(lists, path=Path("gt")):
    path.mkdir()
    for name, text in lists.items():
        (path / name).write_text(text)
    return path


@pytest.mark.parametrize("packed", [in_archive, in_folder])
def test_the_lists_of_oxford_are_read_from_their_archive_and_from_a_folder(packed):
    assert ground_truth.read_oxford(packed(LISTS)) == SAID


def test_the_names_of_paris_are_taken_as_they_are():
    lists = {name: text.replace("oxc1_", "paris_") for name, text in LISTS.items()}
    assert Query("paris_christ_church_000179", (0, 0, 10, 20)) in ground_truth.read_oxford(in_folder(lists))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"all_souls_1_ok.txt": None}, "there is all_souls_1_query.txt but no all_souls_1_ok.txt"),
        ({"all_souls_1_query.txt": "oxc1_x 1 2 3"}, "all_souls_1_query.txt is not the name of a photo"),
        ({"all_souls_1_query.txt": "oxc1_x 1 2 3 y"}, "all_souls_1_query.txt: '1,2,3,y' is not a box"),
        (dict.fromkeys(LISTS), "no files like all_souls_1_query.txt in it"),
    ],
)  # fmt: skip
def test_lists_that_lack_something_are_refused(change, message):
    lists = {name: text for name, text in {**LISTS, **change}.items() if text is not None}
    with pytest.raises(InputError, match=message):
        ground_truth.read_oxford(in_folder(lists))


@pytest.mark.parametrize("cut", [3, 100, 10_000])
def test_an_archive_that_is_cut_short_is_refused(cut):
    path = in_archive(LISTS)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"gt\.tgz: not a whole \.tgz archive"):
        ground_truth.read_oxford(path)


def gnd(number=int, array=list):
    """What a `gnd_*.pkl` holds, the numbers of the types that are asked for."""
    return {
        "imlist": ["a", "b", "c", "d"],
        "qimlist": ["p", "q"],
        "gnd": [
            {
                "bbx": array([number(1), number(2), number(30), number(40)]),
                "easy": array([number(0), number(3)]),
                "hard": array([number(1)]),
                "junk": array([]),
            },
            {"bbx": [0.5, 0.0, 9.0, 9.5], "easy": [], "hard": [], "junk": [2]},
        ],
    }


MEANT = {
    Query("p", (1, 2, 30, 40)): {"a": "easy", "d": "easy", "b": "hard"},
    Query("q", (0.5, 0, 9, 9.5)): {"c": "junk"},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("number", "array"), [(int, list), (int, np.array), (np.float32, list)])
def test_the_pickle_of_the_revisited_datasets_is_read_however_it_was_pickled(protocol, number, array):
    content = pickle.dumps(gnd(number, array), protocol)
    Path("gnd.pkl").write_bytes(content)
    assert ground_truth.read_revisited(Path("gnd.pkl")) == MEANT
    if protocol < 4:  # whose names have no length before them, so that NumPy 1's take their place
        Path("gnd.pkl").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
        assert ground_truth.read_revisited(Path("gnd.pkl")) == MEANT


class Evil:
    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize(
    "evil",
    [
        Evil(os.system, "touch harm"),
        Evil(eval, "open('harm', 'w')"),
        Evil(getattr, "x", "upper"),
        Evil(np.fromfile, "harm"),
        Evil(np.load, "harm"),
        Evil(io.open, "harm", "w"),
        Evil(Path, "harm"),
        np.float64,
        Photo("a", "b"),
    ],
    ids=lambda evil: type(evil).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_or_build_anything_else_is_refused(evil, protocol):
    Path("gnd.pkl").write_bytes(pickle.dumps({**gnd(), "more": [evil]}, protocol))
    with pytest.raises(
        InputError, match=r"gnd\.pkl: it would run .*; only containers, numbers, text and NumPy"
    ):
        ground_truth.read_revisited(Path("gnd.pkl"))
    assert not Path("harm").exists()


def test_text_is_encoded_as_latin1_alone():
    content = b"c_codecs\nencode\n(Vx\nVzlib_codec\ntR."
    Path("gnd.pkl").write_bytes(content)
    with pytest.raises(InputError, match="it encodes text as 'zlib_codec'"):
        ground_truth.load_plain(Path("gnd.pkl"))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_broken_pickle_is_more_than_an_input_error(data):
    content = bytearray(pickle.dumps(gnd(np.int64, np.array), data.draw(st.sampled_from([0, 2, 4]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    Path("gnd.pkl").write_bytes(content)
    with contextlib.suppress(InputError):
        ground_truth.read_revisited(Path("gnd.pkl"))


@pytest.mark.parametrize(
    "change",
    [
        {"imlist": None},
        {"gnd": []},
        {"gnd": [{"bbx": [1, 2, 3, 4]}] * 2},
        {"imlist": ["a"]},
        {"qimlist": 7},
    ],
    ids=str,
)
def test_a_pickle_of_something_else_is_refused(change):
    Path("gnd.pkl").write_bytes(pickle.dumps({**gnd(), **change}))
    with pytest.raises(InputError, match=r"gnd\.pkl: not the ground truth of a revisited dataset"):
        ground_truth.read_revisited(Path("gnd.pkl"))


def test_names_become_the_paths_of_the_photos_wherever_they_lie(make_photo):
    paths = {
        name: f"data/x/images/{folder}/{name}.jpg" for name, folder in [("q", "c"), ("a", "c/d"), ("b", "e")]
    }
    for path in paths.values():
        make_photo(Path(path))
    truth = {Query("q", (1, 2, 3, 4)): {"a": "good", "b": "junk"}}
    assert ground_truth.located(truth, Path("data/x/images")) == {
        Query(paths["q"], (1, 2, 3, 4)): {paths["a"]: "good", paths["b"]: "junk"}
    }
    truth[Query("gone", None)] = {"lost": "ok"}
    with pytest.raises(
        InputError, match=r"data/x/images: 2 of the 5 photos of the ground truth are not in it, gone"
    ):
        ground_truth.located(truth, Path("data/x/images"))


def test_a_name_that_two_photos_have_is_refused(make_photo):
    for path in ("x/images/c/q.jpg", "x/images/d/q.png", "x/images/c/other.jpg", "x/images/d/other.jpg"):
        make_photo(Path(path))
    with pytest.raises(InputError, match=r"x/images/d/q\.png: has the name of x/images/c/q\.jpg"):
        ground_truth.located({Query("q", None): {}}, Path("x/images"))


def test_the_example_in_the_documentation_is_read():
    text = (Path(__file__).parents[2] / "docs/ground-truth.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```csv\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    truth = read(example)
    assert {grade for judged in truth.values() for grade in judged.values()} == {"good", "ok", "junk"}
    assert [query.box for query in truth] == [(120, 40, 480, 900), None]


@pytest.fixture
def photos(make_photo):
    return [Photo(make_photo(Path(f"{name}.jpg"), size=(64, 48)).as_posix(), "c") for name in "qab"]


def test_a_ground_truth_that_fits_its_photos_passes(photos, caplog):
    truth = {Query("q.jpg", (-5, 0, 9000, 40.4)): {"a.jpg": "good", "b.jpg": "junk"}}
    ground_truth.check(truth, photos, [])
    assert caplog.messages == []


def test_a_judged_photo_that_was_rejected_is_a_warning(photos, caplog):
    with caplog.at_level(logging.WARNING):
        ground_truth.check(
            {Query("q.jpg", None): {"a.jpg": "good", "broken.jpg": "ok"}}, photos, ["broken.jpg"]
        )
    assert caplog.messages == ["1 photos of the ground truth were rejected; none will be found"]


@pytest.mark.parametrize(
    ("query", "judged", "message"),
    [
        (Query("x.jpg", None), "a.jpg", "the query x.jpg is no photo of the dataset"),
        (Query("broken.jpg", None), "a.jpg", "the query broken.jpg is a rejected file"),
        (Query("q.jpg", None), "x.jpg", "1 judged photos are not in the dataset, x.jpg is the first"),
        (Query("q.jpg", (70, 0, 80, 9)), "a.jpg", "q.jpg: the box 70,0,80,9 .* has no pixel of the photo"),
    ],
)  # fmt: skip
def test_a_ground_truth_of_other_photos_is_refused(photos, query, judged, message):
    with pytest.raises(InputError, match=message):
        ground_truth.check({query: {judged: "good"}}, photos, ["broken.jpg"])


@pytest.mark.parametrize("folder", [".", "data/mine"])
def test_the_command_counts_what_it_wrote(make_photo, monkeypatch, folder):
    for name in ("params.yaml", "dvc.yaml"):
        Path(name).touch()
    for name in "abcdpq":
        make_photo(Path("data/mine/images/all", f"{name}.jpg"))
    root = Path.cwd()
    monkeypatch.chdir(folder)
    Path("gnd.pkl").write_bytes(pickle.dumps(gnd()))
    done = CliRunner().invoke(app, ["ground-truth", "revisited", "mine", "gnd.pkl", "--json"])
    path = "data/mine/ground_truth.csv"
    grades = [grade for judged in MEANT.values() for grade in judged.values()]
    counts = {grade: grades.count(grade) for grade in ("easy", "hard", "junk")}
    assert json.loads(done.stdout) == {"ground_truth": path, "queries": len(MEANT), **counts}
    assert not (root / f"{path}.xxh").exists()  # for people write this file, too
    written = ground_truth.read(root / path, with_checksum=False)
    assert len(written) == len(MEANT)
    assert {query.image_path for query in written} == {f"data/mine/images/all/{name}.jpg" for name in "pq"}


@pytest.mark.parametrize(("seen", "damaged"), [("good", "junk"), ("b.jpg", "c.jpg"), ("30", "31")])
def test_one_that_is_not_as_its_checksum_says_is_refused_though_it_could_be(seen, damaged):
    path = Path("truth.csv")
    ground_truth.write(path, {Query("q.jpg", (1, 2, 30, 40)): {"a.jpg": "good", "b.jpg": "ok"}})
    path.write_text(path.read_text().replace(seen, damaged, 1))
    assert len(ground_truth.read(path, with_checksum=False)) in (1, 2)  # as of a dataset, which has none
    with pytest.raises(DamagedError, match=r"^truth\.csv: not as truth\.csv\.xxh says"):
        ground_truth.read(path)
