import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import landmarks
from landmarks import __version__, catalog, describers, params, serving
from landmarks.asking import Answer, Index, Result
from landmarks.catalog import Photo
from landmarks.cli import _Names, _save, app
from landmarks.cli_datasets import enter_root
from landmarks.errors import InputError
from landmarks.folders import printable

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(typer.main.get_command(app).commands)


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


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_examples_and_json_in_its_help(ask, command):
    code, lines, _ = ask(command, "--help")
    assert code == 0
    assert any(
        line.startswith(f"    landmarks {command} ") or line == f"    landmarks {command}" for line in lines
    )
    assert any("--json" in line for line in lines)
    assert ask(command, "-h")[1] == lines


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


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("query x.jpg --distance L4", "'--distance': 'L4' is not one of 'L1', 'L2', 'L3'."),
        ("evaluate-model --split all", "'--split': 'all' is not one of 'train', 'val', 'test', 'index'."),
        ("fetch rome", "'name': 'rome' is not one of 'oxford', 'paris'."),
        ("ground-truth x mine", "'protocol': 'x' is not one of 'oxford', 'revisited'."),
        ("serve --port 65536", "'--port': Input should be less than or equal to 65535"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_in_plain_words(ask, command, told):
    code, _, errors = ask(*command.split())
    assert (code, errors.splitlines()[-1]) == (2, f"Error: Invalid value for {told}")


def test_the_version_is_that_of_the_package(ask):
    assert ask("--version") == (0, [f"landmarks {__version__}"], "")


def make_repository(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_the_root_is_the_nearest_folder_above_with_the_files_of_the_pipeline(tmp_path, monkeypatch):
    make_repository(tmp_path / "outer", "params.yaml", "dvc.yaml")
    make_repository(tmp_path / "outer/inner", "params.yaml", "dvc.yaml")
    make_repository(tmp_path / "outer/inner/only one/deep", "dvc.yaml")
    make_repository(tmp_path / "outer/inner/only one/deep/er")
    make_repository(tmp_path / "outer/exported", "params.yaml")
    make_repository(tmp_path / "outer/exported/part")
    (tmp_path / "outer/link").symlink_to(tmp_path / "outer/inner/only one", target_is_directory=True)
    for place, root in {
        "outer": ".",
        "outer/inner": ".",
        "outer/inner/only one": "..",
        "outer/inner/only one/deep": "../..",
        "outer/inner/only one/deep/er": "../../..",
        "outer/exported/part": "../..",
        "outer/link": "..",  # as the system sees it
        "outer/exported": ".",
        ".": ".",
    }.items():
        monkeypatch.chdir(tmp_path / place)
        assert params.root() == Path(root), place


@pytest.fixture
def inside(built, ask, monkeypatch):
    """As `ask`, in a folder below the root."""
    (built / "dvc.yaml").touch()

    def run(folder, *arguments):
        monkeypatch.chdir(built / folder)
        return ask(*arguments)

    yield run
    (built / "dvc.yaml").unlink()


@pytest.mark.parametrize("folder", ["queries", "data/mine/images/castle", "models"])
@pytest.mark.parametrize("rerank", ["one", "geometric"])
def test_questions_are_answered_from_any_folder(inside, built, folder, rerank):
    photos = {
        name: os.path.relpath(built / name, built / folder) for name in ("queries/1.png", "queries/2.png")
    }
    asked = ["query", "--json", "--rerank", rerank, "--top", 3]
    expected = [json.loads(line) for line in inside(".", *asked, *photos)[1]]
    code, lines, errors = inside(folder, *asked, *photos.values())
    assert (code, errors) == (0, "")
    assert [json.loads(line) for line in lines] == [
        {**answer, "photo": path} for answer, path in zip(expected, photos.values(), strict=True)
    ]


def test_predict_and_serve_find_the_index_from_any_folder(inside, monkeypatch):
    assert inside("queries", "predict", "1.png")[1][0].startswith("1.png: 故宫 (votes: 故宫 3; ")
    monkeypatch.setattr(serving, "serve", lambda index, listening, hosts: listening.close())
    assert inside("queries", "serve", "--port", 0)[1][0].startswith("9 photos at http://127.0.0.1:")


def test_evaluate_model_takes_the_model_of_the_root_or_one_named_from_any_folder(inside, built, monkeypatch):
    asked = []

    def evaluate(model, photos, recipe):
        asked.append((model, [photo.image_path for photo in photos]))
        return {"prec@1": 0.5}

    # The module itself takes seconds to import.
    monkeypatch.setattr(landmarks, "training", SimpleNamespace(evaluate=evaluate), raising=False)
    monkeypatch.setattr(describers, "read", Path.absolute)
    catalog.write_photos(built / "data/splits/test.csv", [Photo("a.jpg", "castle")])
    try:
        for option in ([], ["--model", "0.png"]):
            code, lines, _ = inside("queries", "evaluate-model", "--split", "test", "--json", *option)
            assert (code, lines) == (0, ['{"prec@1": 0.5}'])
    finally:
        shutil.rmtree(built / "data/splits")
    assert asked == [
        (built / "models/model.safetensors", ["a.jpg"]),
        (built / "queries/0.png", ["a.jpg"]),
    ]


def test_a_photo_of_the_index_is_not_its_own_result_from_any_folder(inside):
    _, [_, *results], _ = inside("data/mine/images/castle", "query", "--top", 9, "0 castle.jpg")
    assert len(results) == 8
    assert not any(line.endswith("images/castle/0 castle.jpg") for line in results)


def test_answers_are_written_where_the_user_is(inside, built, tmp_path):
    assert inside("queries", "query", "--out", "answers", "0.png")[0] == 0
    assert (built / "queries/answers/0.jpg").is_file()
    shutil.rmtree(built / "queries/answers")


def test_other_commands_work_from_any_folder(inside, built, tmp_path):
    expected = inside(".", "check")
    assert expected[0] == 0
    assert inside("data/mine/images/castle", "check") == expected
    assert inside("models", "time", "--photos", 1, "--queries", 1)[0] == 0
    with pytest.raises(InputError, match=f"^{re.escape(str(built))}/queries/gone: no such"):
        inside("queries", "ground-truth", "oxford", "mine", "gone")


def test_paths_that_are_given_are_those_of_the_folder_where_the_user_is(inside, built, monkeypatch):
    given = ["a.tgz", "../b c", "https://example.org/a.tgz", "/x/y"]
    monkeypatch.chdir(built)
    assert enter_root(*given) == given
    monkeypatch.chdir(built / "data/mine")
    assert enter_root(*given) == [f"{built}/data/mine/a.tgz", f"{built}/data/b c", *given[2:]]
    assert Path.cwd() == built


@pytest.mark.parametrize("command", ["predict", "query"])
def test_without_a_repository_a_line_says_where_to_run(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [command, "x.jpg"])
    assert str(done.exception) == "params.yaml: no such file; run this in the root of the repository"


REPORTS = {
    "plots/classes.csv": "class,queries,accuracy,average_precision\n",
    "plots/confusion.csv": "actual,predicted\n",
    "plots/precision_recall.csv": "recall,precision\n",
    "results.csv": "query_path,query_class,predicted_class,rank,distance,image_path,class_image\n"
    "data/mine/images/castle/gone.jpg,castle,castle,1,0.5,data/mine/images/castle/1 castle.jpg,castle\n"
    "data/mine/images/castle/0 castle.jpg,castle,castle,1,0.5,data/mine/images/castle/1 castle.jpg,castle\n",
}


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (
            {"accuracy": 0.95, "map": 0.8366, "map_low": 0.7, "map_high": 0.9, "precision_at_1": 0.9,
             "queries": 60, "index": 30, "positives": 180},
            "accuracy 0.950, map 0.837, queries 60, index 30",
        ),
        (
            {"map_easy": 0.5, "mp_at_1_easy": 1, "queries_easy": 3, "map_hard": 0.25, "map_hard_low": 0.1,
             "queries": 70, "index": 4993},
            "map_easy 0.500, map_hard 0.250, queries 70, index 4993",
        ),
        ({"map_oxford": 1, "map_oxford_high": 1, "queries": 55}, "map_oxford 1.000, queries 55"),
    ],
)  # fmt: skip
def test_the_summary_tells_what_was_reached_and_what_to_try(inside, built, metrics, told):
    for name, text in {**REPORTS, "metrics.json": json.dumps(metrics)}.items():
        (built / "reports" / name).parent.mkdir(parents=True, exist_ok=True)
        (built / "reports" / name).write_text(text)
    try:
        code, lines, _ = inside("models", "summary")
        photo = "data/mine/images/castle/0 castle.jpg"
        assert code == 0
        assert lines == [
            f"Reached: {told} (reports/metrics.json)",
            "To look at it: dvc plots show, landmarks serve, or the file reports/gallery/index.html",
            f"To go on: landmarks predict '{photo}', or dvc exp run -S rerank=two",
        ]
        assert json.loads(inside("models", "summary", "--json")[1][0]) == {"metrics": metrics, "photo": photo}
    finally:
        shutil.rmtree(built / "reports")


@pytest.mark.parametrize(
    ("host", "note"),
    [
        ("127.0.0.1", ""),
        ("0.0.0.0", ""),
        ("::1", ""),
        ("::", "IPv6 alone; "),
        ("0:0:0:0:0:0:0:0", "IPv6 alone; "),
    ],
)
def test_serve_says_where_it_listens_and_to_whom(ask, built, monkeypatch, host, note):
    served = []

    def serve(index, listening, hosts):
        served.append(hosts)
        listening.close()

    monkeypatch.setattr(serving, "serve", serve)
    try:
        _, [line], _ = ask("serve", "--host", host, "--port", 0)
    except InputError:
        pytest.skip("no IPv6 here")
    assert line.endswith(f"/ ({note}stop with Ctrl-C)")
    assert served == [None if host in ("0.0.0.0", "::", "0:0:0:0:0:0:0:0") else serving.LOOPBACK]


def test_hosts_that_are_allowed_take_the_place_of_the_usual_ones_in_any_capitals(ask, monkeypatch):
    served = []
    monkeypatch.setattr(
        serving, "serve", lambda index, listening, hosts: listening.close() or served.append(hosts)
    )
    ask("serve", "--port", 0, "--allow-host", "Photos.example.org", "--allow-host", "b")
    assert served == [{"photos.example.org", "b"}]


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_an_empty_variable_opens_the_server_to_nobody(ask, monkeypatch, empty):
    monkeypatch.setattr(serving, "serve", lambda *_: pytest.fail("it serves"))
    with pytest.raises(
        InputError, match=r"^--host: '.*' is no address; 127\.0\.0\.1 is for this machine alone"
    ):
        ask("serve", "--host", empty)
    with pytest.raises(InputError, match=r"^--allow-host: '' is no name"):
        ask("serve", "--port", 0, "--allow-host", "localhost", "--allow-host", empty)
