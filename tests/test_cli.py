import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import pytest
from PIL import Image
from typer.testing import CliRunner

from landmarks.asking import Answer, Index, Result
from landmarks.catalog import Photo, printable
from landmarks.cli import _Names, _save, app
from landmarks.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def ask(built, monkeypatch):
    """Run `landmarks` in the built repository; returns the exit code, the lines of stdout and stderr."""
    monkeypatch.chdir(built)

    def run(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout.splitlines(), done.stderr

    return run


def python(code, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)


def imported(built, *arguments):
    """The modules in memory after `landmarks` with these arguments."""
    done = python(
        f"import sys; sys.argv[1:] = {list(arguments)!r}\nfrom landmarks.cli import main\n"
        "try: main()\nexcept SystemExit: print('\\n', *sys.modules)",
        built,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_nothing_slow(built):
    for arguments in (["--help"], ["query", "--help"], []):
        modules = imported(built, *arguments)
        assert "typer" in modules
        assert not modules & {"torch", "h5py", "scipy", "sklearn", "cv2", "timm", "numpy", "PIL", "dvc"}


def test_no_torch_is_imported_where_no_photo_needs_it(built):
    modules = imported(built, "query", "queries/0.png")
    assert "cv2" in modules
    assert not modules & {"torch", "timm", "torchvision"}


@pytest.mark.parametrize("command", ["check", "predict", "query", "time", "evaluate-model"])
def test_each_command_has_examples_and_json_in_its_help(ask, command):
    code, lines, _ = ask(command, "--help")
    assert code == 0
    assert any(
        line.startswith(f"    landmarks {command} ") or line == f"    landmarks {command}" for line in lines
    )
    assert any("--json" in line for line in lines)


def test_predict_tells_the_landmark_the_votes_and_the_nearest_distance(ask, built):
    code, lines, _ = ask("predict", "queries/1.png")
    index = Index.open(built)
    answer = index.answer(index.describe([built / "queries/1.png"]))[0]
    assert (code, lines) == (
        0,
        [f"queries/1.png: 故宫 (votes: 故宫 3; nearest {answer.nearest:.4f})"],
    )
    code, lines, _ = ask("predict", "--json", "queries/1.png")
    assert json.loads(lines[0]) == {
        "photo": "queries/1.png",
        "landmark": "故宫",
        "votes": {"故宫": 3},
        "nearest": answer.nearest,
    }


def test_query_prints_the_results_as_the_index_ranks_them(ask, built):
    code, lines, _ = ask(
        "query", "--json", "--top", 4, "--distance", "L3", "--rerank", "two", "queries/2.png"
    )
    index = Index.open(built)
    answer = index.answer(index.describe([built / "queries/2.png"]), "L3", "two", 4)[0]
    assert code == 0
    assert json.loads(lines[0]) == {"photo": "queries/2.png", **answer.as_json()}
    assert len(answer.results) == 4
    _, text, _ = ask("query", "--top", 4, "--distance", "L3", "--rerank", "two", "queries/2.png")
    assert [line.split(None, 1)[0] for line in text[1:]] == ["1", "2", "3", "4"]
    for line, result in zip(text[1:], answer.results, strict=True):
        assert line.endswith(f"  {result.photo.class_image}  {result.photo.image_path}")


def test_five_results_are_the_default(ask):
    assert len(ask("query", "queries/0.png")[1]) == 1 + 5


def test_folders_and_patterns_stand_for_their_photos(ask):
    def photos(*arguments):
        code, lines, _ = ask("predict", "--json", *arguments)
        assert code == 0
        return [json.loads(line)["photo"] for line in lines]

    three = [f"queries/{number}.png" for number in range(3)]
    assert photos("queries") == photos("queries/*.png") == photos("quer*") == photos(*three) == three
    assert photos("data/mine/**/0*") == [
        f"data/mine/images/{name}/0 {name}.jpg" for name in ("castle", "tower, old", "故宫")
    ]


def test_a_name_that_looks_like_a_pattern_is_taken_as_it_stands(ask, built, tmp_path):
    for name in ("a[1].png", "a1.png"):
        (tmp_path / name).write_bytes((built / "queries/0.png").read_bytes())
    _, lines, _ = ask("predict", "--json", tmp_path / "a[1].png")
    assert [json.loads(line)["photo"] for line in lines] == [f"{tmp_path}/a[1].png"]


def test_broken_photos_are_reported_and_the_rest_is_answered(ask, tmp_path):
    (tmp_path / "a.jpg").write_text("no photo")
    photos = ["queries/0.png", tmp_path / "a.jpg", tmp_path / "gone*", "queries/1.png"]
    code, lines, errors = ask("predict", *photos)
    assert code == 1
    assert [line.split(" (")[0] for line in lines] == ["queries/0.png: castle", "queries/1.png: 故宫"]
    assert errors.splitlines() == [
        f"error: {tmp_path}/a.jpg: not an image in one of the formats JPEG, PNG, WEBP, BMP, TIFF",
        f"error: {tmp_path}/gone*: no such file",
    ]
    code, lines, _ = ask("query", "--json", *photos)
    assert code == 1
    told = [json.loads(line) for line in lines]
    assert ["error" in one for one in told] == [False, True, True, False]
    assert told[2] == {"photo": f"{tmp_path}/gone*", "error": f"{tmp_path}/gone*: no such file"}


def test_an_empty_folder_is_refused(ask, tmp_path):
    with pytest.raises(InputError, match="no files in this folder"):
        ask("predict", tmp_path)


def test_a_photo_like_no_landmark_is_told(ask, tmp_path):
    Image.new("RGB", (40, 40), "white").save(tmp_path / "blank.png")
    code, lines, _ = ask("predict", tmp_path / "blank.png")
    assert (code, lines) == (0, [f"{tmp_path}/blank.png: resembles no landmark (votes: none; nearest inf)"])
    _, lines, _ = ask("predict", "--json", tmp_path / "blank.png")
    assert json.loads(lines[0])["landmark"] is json.loads(lines[0])["nearest"] is None


def test_out_has_a_sheet_the_results_and_a_table_of_them(ask, built, tmp_path):
    out = tmp_path / "new" / "answers"
    other = tmp_path / "0.png"
    other.write_bytes((built / "queries/2.png").read_bytes())
    code, _, _ = ask("query", "queries/0.png", other, tmp_path / "gone", "--top", 2, "--out", out)
    assert code == 1
    index = Index.open(built)
    answers = index.answer(index.describe([built / "queries/0.png", other]), top=2)
    for name, answer in zip(["0", "0 (2)"], answers, strict=True):
        with Image.open(out / f"{name}.jpg") as sheet:
            assert sheet.format == "JPEG"
        copies = {
            f"{result.rank:02} {result.photo.class_image} {Path(result.photo.image_path).name}": result
            for result in answer.results
        }
        assert {path.name for path in (out / name).iterdir()} == set(copies)
        for copy, result in copies.items():
            assert (out / name / copy).read_bytes() == (built / result.photo.image_path).read_bytes()
    assert {path.name for path in out.iterdir()} == {"0", "0 (2)", "0.jpg", "0 (2).jpg", "results.csv"}
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        (path, a, r)
        for path, a in zip(["queries/0.png", str(other)], answers, strict=True)
        for r in a.results
    ]
    for row, (path, answer, result) in zip(rows, expected, strict=True):
        assert row["query_path"] == path
        assert row["predicted_class"] == answer.landmark
        assert (row["image_path"], row["class_image"]) == result.photo[:2]
        assert int(row["rank"]) == result.rank
        assert float(row["distance"]) == pytest.approx(result.distance, rel=1e-5)


def test_out_overwrites_nothing(ask, tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        ask("query", "queries/0.png", "--out", tmp_path)
    with pytest.raises(InputError, match="cannot be made"):
        ask("query", "queries/0.png", "--out", tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


# What each of the photos is called in a folder of answers, those before it being there.
NAMED = {
    "1": "1",
    "sub/1": "1 (2)",
    "1 (2)": "1 (2) (2)",
    "results.csv": "results.csv (2)",
    "Results.CSV": "Results.CSV (3)",
    "bridge": "bridge",
    "bridge.jpg": "bridge.jpg (2)",  # whose folder has the name of the sheet of the one before
    "tower.jpg": "tower.jpg",
    "tower": "tower (2)",  # whose sheet has the name of the folder of the one before
    "IMG_1": "IMG_1",
    "img_1": "img_1 (2)",
    "Hu\u1ebf": "Hu\u1ebf",
    "hue\u0302\u0301": "hue\u0302\u0301 (2)",
    "Straße": "Straße",
    "STRASSE": "STRASSE (2)",
    ".hidden": "_hidden",
    ".results.csv.tmp": "_results.csv.tmp",
    "..": "_",
    " ": "_ (2)",
    "end. .": "end",
    "end": "end (2)",
    "nul": "nul_",
    "Com1.tar": "Com1_.tar",
    "console": "console",
    "12:30?": "12_30_",
    "two\nlines": "two_lines",
    "caf\udce9": "caf_xe9",  # not UTF-8
    "故" * 85: "故" * 83,
    "故" * 84: "故" * 76 + " (2)",
    "a" + "🗿" * 63: "a" + "🗿" * 62,
    "b" * 255: "b" * 251,
    "b" * 252: "b" * 230 + " (2)",
    "c" * 300 + ".tar": "c" * 247 + ".tar",
    "d" * 250 + " ." * 2: "d" * 250,
    " " * 252 + ".x": "_" + ".x",
}


def test_answers_have_names_that_every_file_system_tells_apart():
    names = _Names("results.csv")
    assert {stem: names.free(Path(stem).name) for stem in NAMED} == NAMED


def compared(name):
    """What `name` is to file systems as ZFS, APFS and NTFS may be: composed, decomposed, in capitals."""
    return {name, normalize("NFKC", name.lower()), normalize("NFD", name.upper())}


def test_names_of_answers_never_meet():
    chance = random.Random(0)
    pieces = ["a", "A", "é", "e\u0301", "ß", "ﬁ", "K", "\u212a", "故", "🗿", ".", " ", ".jpg", " (2)", " (3)"]
    pieces += ["con", ":", "\\", "\t", "\udcff", "results.csv", "x" * 120, "故" * 40]
    for _ in range(20):
        names, there = _Names("results.csv"), {"results.csv"}
        for _ in range(50):
            name = names.free("".join(chance.choices(pieces, k=chance.randint(1, 4))))
            assert not set(name) & set('"*/:<>?\\|\t')
            assert name[0] not in ". "
            assert name[-1] not in ". "
            assert len(name.encode()) <= 251
            made = compared(name) | compared(f"{name}.jpg")
            assert not made & there
            there |= made


@pytest.mark.parametrize(
    "stems",
    [
        ["IMG"] * 10_000,
        ["img", "IMG", "Img"] * 1000,
        ["e\u0301", "é"] * 1000,
        [f"{'x' * 247}{number:04}" for number in range(1000)] * 2,
        [f"a ({number})" for number in range(2, 1000)] + ["a"] * 1000,
    ],
    ids=["alike", "case", "composed", "long", "numbers"],
)
def test_names_of_thousands_of_answers_need_few_candidates(stems, monkeypatch):
    tried = []
    take = _Names._take
    monkeypatch.setattr(_Names, "_take", lambda names, name: tried.append(name) or take(names, name))
    names = _Names("results.csv")
    assert len({names.free(stem) for stem in stems}) == len(stems)
    assert len(tried) < 3 * len(stems)


def test_out_takes_photos_of_any_name(ask, built, tmp_path):
    names = ["results.csv.jpg", "Results.CSV.png", "results.csv", ".results.csv.tmp.jpg", "...jpg", "nul.png"]
    names += ["a.jpg.jpg", "a.png", "A.png", "\udcff.png", "12:30\n.png", "é.png", "e\u0301.png"]
    photos = [
        tmp_path / "photos" / name for name in [*names, "e\u0301" * 85, "🗿" * 63 + "xyz", "y" * 251 + ".jpg"]
    ]
    photos[0].parent.mkdir()
    for photo in photos:
        shutil.copyfile(built / "queries/2.png", photo)
    out = tmp_path / "out"
    code, _, errors = ask("query", *photos, "--top", 2, "--out", out, "--json")
    assert (code, errors) == (0, "")
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["query_path"] for row in rows] == [printable(photo) for photo in photos for _ in range(2)]
    folders = [path for path in out.iterdir() if path.is_dir()]
    assert len(folders) == len(photos)
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == sorted(
        ["results.csv", *(f"{folder.name}.jpg" for folder in folders)]
    )
    for folder in folders:
        assert sorted(path.name[:3] for path in folder.iterdir()) == ["01 ", "02 "]


@pytest.mark.parametrize(
    ("landmark", "photo", "copy"),
    [
        ("bridge", "1.jpg", "01 bridge 1.jpg"),
        ("故" * 85, "1.jpg", "01 " + "故" * 82 + ".jpg"),
        ("tower", "故" * 83 + ".jpeg", "01 tower " + "故" * 80 + ".jpeg"),
        ("tower", "1." + "x" * 253, "01 tower 1." + "x" * 244),
        ("tower", "x" * 255, "01 tower " + "x" * 246),
        ("Who? Where:", "a\tb.", "01 Who_ Where_ a_b"),
    ],
    ids=["as it is", "long landmark", "long photo", "long suffix", "no suffix", "not for Windows"],
)
def test_copies_of_results_have_names_that_a_file_system_takes(tmp_path, make_photo, landmark, photo, copy):
    path = Path("images", landmark, photo)
    make_photo(tmp_path / path, format="PNG")
    results = [Result(rank, 0, Photo(path.as_posix(), landmark), 0.5) for rank in (1, 2)]
    answer = Answer(landmark, {landmark: 1}, 0.5, results)
    (tmp_path / "out").mkdir()
    _save(tmp_path / "out", "query", SimpleNamespace(root=tmp_path), tmp_path / path, answer)
    copies = sorted((tmp_path / "out/query").iterdir())
    assert [one.name for one in copies] == [copy, copy.replace("01", "02", 1)]
    assert all(one.read_bytes() == (tmp_path / path).read_bytes() for one in copies)


def test_a_folder_too_deep_for_its_names_is_one_line(ask, tmp_path):
    deep = tmp_path.joinpath(*["x" * 100] * ((4080 - len(str(tmp_path))) // 101))
    photo = tmp_path / ("y" * 250 + ".png")
    shutil.copyfile("queries/0.png", photo)
    with pytest.raises(InputError, match=r"x: cannot be written \(File name too long\)$"):
        ask("query", photo, "--out", deep)


def test_time_measures_describing_and_answering(ask):
    code, lines, _ = ask("time", "--photos", 3, "--queries", 20, "--json")
    assert code == 0
    timings = json.loads("".join(lines))
    assert list(timings) == ["photo", "batch", "query"]
    for timing in timings.values():
        assert 0 < timing["p50_ms"] <= timing["p95_ms"]
        assert timing["per_second"] > 0
    assert ask("time", "--photos", 1, "--queries", 1)[1][0].split() == [
        "per",
        "second",
        "median",
        "ms",
        "95",
        "%",
        "ms",
    ]


def test_names_that_stdout_cannot_show_are_escaped(built, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb") as file:  # noqa: PTH123
        file.write((built / "queries/1.png").read_bytes())
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    code = "from landmarks.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", name], cwd=built, env=env, capture_output=True
    )
    assert done.returncode == 0
    assert b"/\\udcff.png: \\u6545\\u5bab (votes: " in done.stdout


def test_what_the_pipeline_has_not_made_is_one_line(tmp_path):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    done = python(
        "import sys; sys.argv[1:] = ['predict', 'x.jpg']; from landmarks.cli import main; main()", tmp_path
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: features/index.h5: no such file; `dvc repro` makes it\n"
