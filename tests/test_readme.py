"""The two READMEs say the same: what is not prose in them is equal, section by section."""

import re
from itertools import zip_longest
from pathlib import Path

import pytest
import typer

from landmarks import params
from landmarks.asking.cli import app
from landmarks.demo import buildings

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "README.zh.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
ENGLISH, CHINESE = "README.md", "README.zh.md"


def sections(name: str) -> list[str]:
    return re.split(r"^## ", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)


def blocks(text: str) -> list[str]:
    return re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)


def code(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)))


def test_both_have_the_same_commands_names_and_figures():
    for english, chinese in zip_longest(sections(ENGLISH), sections(CHINESE), fillvalue=""):
        heading = english.partition("\n")[0]
        assert blocks(chinese) == blocks(english), heading
        assert code(chinese) == code(english), heading
        rows = [
            [line for line in text.splitlines() if re.match(r"\|.*\d\.\d", line)]
            for text in (english, chinese)
        ]
        assert rows[0] == rows[1], heading


@pytest.mark.parametrize("name", [ENGLISH, CHINESE])
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    headings = {
        heading.lower().replace(" ", "-").translate({ord(char): None for char in ",，:：?？"})
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 5
    for link in links:
        path, _, anchor = link.partition("#")
        assert not path or (ROOT / path).exists(), link
        assert path or anchor in headings, link
    assert (CHINESE if name == ENGLISH else ENGLISH) in links


@pytest.mark.parametrize("name", [ENGLISH, CHINESE])
def test_the_commands_of_landmarks_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"\blandmarks ([a-z][a-z-]+)", "\n".join([*blocks(text), *code(text)])))
    assert {"predict", "query", "time"} <= named
    assert named <= set(typer.main.get_command(app).commands)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_what_is_added_to_git_is_committed():
    added = [command for name in DOCUMENTS for command in re.findall(r"git add data/[^`\n]*", text_of(name))]
    assert len(added) > 5
    assert [command for command in added if " && git commit" not in command] == []


def test_experiments_are_shown_by_what_differs_between_them():
    lines = [line for name in DOCUMENTS for line in "\n".join(blocks(text_of(name))).splitlines()]
    shown = [line for line in lines if line.startswith("dvc exp show") and "|" not in line]
    assert set(shown) == {"dvc exp show --only-changed"}


def test_examples_name_photos_that_are_drawn():
    commands = typer.main.get_command(app).commands
    texts = [*map(text_of, DOCUMENTS), *(command.help for command in commands.values())]
    drawn = {
        f"data/demo/images/{landmark}/{number:03}.jpg"
        for landmark in buildings.LANDMARKS
        for number in range(params.load(ROOT / "params.yaml").demo.photos)
    }
    named = {photo for text in texts for photo in re.findall(r"data/demo/images/[\w/]+\.jpg", text)}
    assert len(named) > 2
    assert named <= drawn
    for line in re.findall(r"landmarks (?:predict|query) (?!PHOTO).*", "\n".join(texts)):
        photos = [word for word in line.split() if re.search(r"\.\w+\b", word)]
        assert all(photo.strip("`'").startswith(("data/", "README.md")) for photo in photos), line
