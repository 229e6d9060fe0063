import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from landmarks.asking import Index
from landmarks.cli import app
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


def test_long_names_of_results_are_shortened_to_what_a_file_system_takes():
    from landmarks.cli import _short

    assert _short("01 bridge 1", ".jpg") == "01 bridge 1.jpg"
    name = _short("故" * 200, ".jpeg")
    assert name == "故" * 83 + ".jpeg"
    assert len(name.encode()) <= 255


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
