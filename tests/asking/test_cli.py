import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from landmarks import __version__, params, training
from landmarks.asking.cli import _print, app
from landmarks.asking.cli_datasets import enter_root
from landmarks.asking.questions import Answer, Index, Result
from landmarks.asking.serving import server
from landmarks.describing import describers
from landmarks.errors import InputError
from landmarks.photos import catalog
from landmarks.photos.catalog import Photo
from landmarks.photos.folders import escaped

ROOT = Path(__file__).parents[2]


COMMANDS = sorted(typer.main.get_command(app).commands)


def python(code, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)


def imported(built, *arguments):
    """The modules in memory after `landmarks` with these arguments."""
    done = python(
        f"import sys; sys.argv[1:] = {list(arguments)!r}\nfrom landmarks.asking.cli import main\n"
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
    code = "from landmarks.asking.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", name], cwd=built, env=env, capture_output=True
    )
    assert done.returncode == 0
    assert b"/\\xff.png: \\u6545\\u5bab (votes: " in done.stdout


def test_what_the_pipeline_has_not_made_is_one_line(tmp_path):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    done = python(
        "import sys; sys.argv[1:] = ['predict', 'x.jpg']; from landmarks.asking.cli import main; main()",
        tmp_path,
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
    monkeypatch.setattr(server, "serve", lambda index, listening, hosts: listening.close())
    assert inside("queries", "serve", "--port", 0)[1][0].startswith("9 photos at http://127.0.0.1:")


def test_evaluate_model_takes_the_model_of_the_root_or_one_named_from_any_folder(inside, built, monkeypatch):
    asked = []

    def evaluate(model, photos, recipe):
        asked.append((model, [photo.image_path for photo in photos]))
        return {"prec@1": 0.5}

    # The module itself takes seconds to import.
    monkeypatch.setattr(training, "loop", SimpleNamespace(evaluate=evaluate), raising=False)
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
    "data/mine/images/castle/2 castle.jpg,castle,tower,1,0.5,data/mine/images/castle/1 castle.jpg,castle\n"
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

    monkeypatch.setattr(server, "serve", serve)
    try:
        _, [line], _ = ask("serve", "--host", host, "--port", 0)
    except InputError:
        pytest.skip("no IPv6 here")
    assert line.endswith(f"/ ({note}stop with Ctrl-C)")
    assert served == [None if host in ("0.0.0.0", "::", "0:0:0:0:0:0:0:0") else server.LOOPBACK]


def test_hosts_that_are_allowed_take_the_place_of_the_usual_ones_in_any_capitals(ask, monkeypatch):
    served = []
    monkeypatch.setattr(
        server, "serve", lambda index, listening, hosts: listening.close() or served.append(hosts)
    )
    ask("serve", "--port", 0, "--allow-host", "Photos.example.org", "--allow-host", "b")
    assert served == [{"photos.example.org", "b"}]


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_an_empty_variable_opens_the_server_to_nobody(ask, monkeypatch, empty):
    monkeypatch.setattr(server, "serve", lambda *_: pytest.fail("it serves"))
    with pytest.raises(
        InputError, match=r"^--host: '.*' is no address; 127\.0\.0\.1 is for this machine alone"
    ):
        ask("serve", "--host", empty)
    with pytest.raises(InputError, match=r"^--allow-host: '' is no name"):
        ask("serve", "--port", 0, "--allow-host", "localhost", "--allow-host", empty)


@pytest.mark.parametrize(
    "hostile", ["a\nquery.jpg: old_bridge (votes: ", "b\x1b[2Jc", "d\re", "f\u202eg", "\x9bh"]
)
def test_no_name_passes_for_an_answer_or_moves_the_cursor(capsys, hostile):
    seen = escaped(hostile)
    assert seen.isprintable()
    photo = Photo(f"data/{hostile}/1.jpg", hostile)
    _print(
        Path(f"{hostile}.jpg"), Answer(hostile, {hostile: 3}, 0.5, [Result(1, 0, photo, 0.5)]), False, True
    )
    told, result = capsys.readouterr().out.split("\n")[:-1]
    assert told == f"{seen}.jpg: {seen} (votes: {seen} 3; nearest 0.5000)"
    assert result == f"   1  0.5000  {seen}  data/{seen}/1.jpg"
