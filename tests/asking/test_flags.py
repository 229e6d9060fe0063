"""Each argument and option of each command changes what the command says, writes or does."""

import re
import shutil
import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from landmarks.asking.cli import app
from landmarks.asking.questions import Index
from landmarks.asking.serving import server
from landmarks.errors import InputError
from landmarks.photos import fetching

from ..stages.inprocess import SMALL, draw_photos, judge, run, stages, updated, write_params

QUERY = "data/mine/images/landmark 0/0.jpg"
OTHER = "data/mine/images/landmark 1/1.jpg"
TIME = ["time", "--photos", "1", "--queries", "1"]
SERVE = ["serve", "--port", "0"]
TRUTH = ["ground-truth", "oxford", "mine", "lists.tgz"]
PUBLISHED = ["ground-truth", "oxford", "oxford"]

# The command and its parameter; without it and with it.
FLAGS = [
    ("check", "dataset", ["check"], ["check", "other"]),
    ("check", "--json", ["check"], ["check", "--json"]),
    ("predict", "photos", ["predict", QUERY], ["predict", QUERY, OTHER]),
    ("predict", "--distance", ["predict", QUERY], ["predict", QUERY, "--distance", "L3"]),
    ("predict", "--json", ["predict", QUERY], ["predict", QUERY, "--json"]),
    ("query", "photos", ["query", QUERY], ["query", OTHER]),
    ("query", "--top", ["query", QUERY], ["query", QUERY, "--top", "2"]),
    ("query", "--distance", ["query", QUERY], ["query", QUERY, "--distance", "L2"]),
    ("query", "--rerank", ["query", QUERY], ["query", QUERY, "--rerank", "aqe"]),
    ("query", "--out", ["query", QUERY], ["query", QUERY, "--out", "answers"]),
    ("query", "--json", ["query", QUERY], ["query", QUERY, "--json"]),
    ("time", "--photos", TIME, [*TIME, "--photos", "3"]),
    ("time", "--queries", TIME, [*TIME, "--queries", "3"]),
    ("time", "--distance", TIME, [*TIME, "--distance", "L2"]),
    ("time", "--rerank", TIME, [*TIME, "--rerank", "two"]),
    ("time", "--json", TIME, [*TIME, "--json"]),
    ("evaluate-model", "--split", ["evaluate-model"], ["evaluate-model", "--split", "test"]),
    ("evaluate-model", "--model", ["evaluate-model"], ["evaluate-model", "--model", "other.safetensors"]),
    ("evaluate-model", "--json", ["evaluate-model"], ["evaluate-model", "--json"]),
    ("summary", "--json", ["summary"], ["summary", "--json"]),
    ("serve", "--host", SERVE, [*SERVE, "--host", "0.0.0.0"]),
    ("serve", "--port", SERVE, ["serve", "--port", "PORT"]),
    ("serve", "--allow-host", SERVE, [*SERVE, "--allow-host", "a.example"]),
    ("serve", "--json", SERVE, [*SERVE, "--json"]),
    ("fetch", "name", ["fetch", "oxford"], ["fetch", "paris"]),
    ("fetch", "files", ["fetch", "oxford"], ["fetch", "oxford", "mine.tgz"]),
    ("fetch", "--url", ["fetch", "oxford"], ["fetch", "oxford", "--url", "https://a.example/b.tgz"]),
    ("fetch", "--json", ["fetch", "oxford"], ["fetch", "oxford", "--json"]),
    ("ground-truth", "protocol", TRUTH, ["ground-truth", "revisited", *TRUTH[2:]]),
    ("ground-truth", "dataset", TRUTH, ["ground-truth", "oxford", "other", "lists.tgz"]),
    ("ground-truth", "file", TRUTH, [*TRUTH[:3], "others.tgz"]),
    ("ground-truth", "--url", PUBLISHED, [*PUBLISHED, "--url", "https://a.example/b.tgz"]),
    ("ground-truth", "--json", TRUTH, [*TRUTH, "--json"]),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A repository with a network that was trained, and another one beside it."""
    folder = tmp_path_factory.mktemp("flags")
    chosen = {
        "backbone": "test_efficientnet",
        "weights": "random",
        "model": "finetuned",
        "finetuned": {"frozen": 3},
        "extract": {"whitening": "none"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_photos(Path("data/mine/images"))
        for seed, last in ((1, "model"), (0, "evaluate")):
            write_params(**updated(SMALL, chosen | {"seed": seed}))
            for stage in stages("finetuned", "mine"):
                if stage.name != "demo":
                    assert run(stage) is None
                if stage.name == last:
                    break
            if seed:
                shutil.copy("models/model.safetensors", "other.safetensors")
        judge("mine", "oxford")
        Path("dvc.yaml").touch()
    return folder


@pytest.fixture
def outcome(root, monkeypatch, tmp_path):
    """What a command says, writes and does; but for how long it takes, and which port was free."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

    def of(arguments):
        done = []

        def noted(name, result):
            return lambda *given, **options: done.append((name, str(given), options)) or result

        def counted(name, whole):
            return lambda index, *given, **options: (
                done.append((name, str(given[1:]))) or whole(index, *given, **options)
            )

        def serve(index, listening, hosts):
            address, at = listening.getsockname()
            done.append((address, at == port, hosts))
            listening.close()

        with monkeypatch.context() as patch:
            patch.setattr(Index, "describe", counted("describe", Index.describe))
            patch.setattr(Index, "answer", counted("answer", Index.answer))
            patch.setattr(server, "serve", serve)
            patch.setattr(fetching, "fetch", noted("fetch", []))
            patch.setattr(fetching, "read_from", noted("read_from", {}))
            before = set(tmp_path.rglob("*"))
            result = CliRunner().invoke(app, [str(port) if one == "PORT" else one for one in arguments])
        if not isinstance(result.exception, SystemExit | InputError | None):
            raise result.exception
        said = re.sub(r"[\d.]+", "#", result.stdout) if arguments[0] in ("time", "serve") else result.stdout
        written = set(tmp_path.rglob("*")) - before
        return result.exit_code, str(result.exception), said, result.stderr, done, written

    return of


@pytest.mark.parametrize(
    ("without", "with_it"), [flag[2:] for flag in FLAGS], ids=[" ".join(flag[:2]) for flag in FLAGS]
)
def test_it_has_an_effect(outcome, without, with_it):
    assert outcome(without)[0] == 0
    assert outcome(with_it) != outcome(without)


def test_each_flag_is_here():
    commands = typer.main.get_command(app).commands
    there = {(name, option.opts[-1]) for name, command in commands.items() for option in command.params}
    assert there == {flag[:2] for flag in FLAGS}
