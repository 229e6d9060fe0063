import pytest
from typer.testing import CliRunner

from landmarks.asking.cli import app


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
