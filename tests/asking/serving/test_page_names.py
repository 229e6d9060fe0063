"""The page with names as photos and landmarks have them in real life: nothing overlaps or sticks out."""

import json
import string
from pathlib import Path
from random import Random
from urllib.parse import urlencode

import pytest

from landmarks import tables
from landmarks.photos.catalog import Photo

from .conftest import open_index, plain, served

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

OVERFLOW = Path(__file__).with_name("overflow.js").read_text()
WIDTHS = (390, 768, 1400, 1920)

CONSONANTS = "bcdfghjklmnpqrstvwxz"
CHINESE = [chr(code) for code in range(0x4E00, 0x9FA5)]


def word(rng):
    return letters(rng, CONSONANTS, 1) + letters(rng, ["ha", "no", "ri", "lon", "bay"], rng.randint(1, 3))


def letters(rng, alphabet, count):
    return "".join(rng.choices(alphabet, k=count))


KINDS = {
    "camera": lambda rng: f"IMG_{rng.randint(20000101, 20301231)}_{rng.randint(100000, 235959)}",
    "data set": lambda rng: f"train_{word(rng)}_{word(rng)} ({rng.randint(1, 99)})",
    "hash": lambda rng: f"{rng.getrandbits(64):016x}",
    "long": lambda rng: "_".join(word(rng) for _ in range(20)),
    "spaces": lambda rng: " ".join(word(rng) for _ in range(20)),
    "no vowels": lambda rng: letters(rng, CONSONANTS, 40),
    "Chinese": lambda rng: letters(rng, CHINESE, 12),
    "Arabic": lambda rng: " ".join(letters(rng, "ابتجدرسعفقكلمنهوي", 6) for _ in range(8)),
    "255 bytes": lambda rng: letters(rng, string.ascii_lowercase, 255),
    "255 bytes of Chinese": lambda rng: letters(rng, CHINESE, 85),
    "Hebrew and Latin": lambda rng: f"{letters(rng, 'אבגדהוזחטיכלמנ', 30)} {word(rng)} (3) {word(rng)}",
    "Thai, without spaces": lambda rng: letters(rng, "กขคงจชซญดตถทธนบปผพฟภมยรลวศสหอ", 60),
    "decomposed": lambda rng: letters(rng, [f"{letter}\u0302\u0301" for letter in "aeo"], 40),
    "percent-encoded": lambda rng: "".join(f"%{rng.randrange(256):02X}" for _ in range(40)),
    "override": lambda rng: f"{word(rng)}\u202e{word(rng)}",
    "markup": lambda rng: f"<b>{word(rng)}&nbsp;{letters(rng, CONSONANTS, 50)}",
}

COPY_ANSWERS = """async (queries) => {
  const [asked, copies] = [document.getElementById("asked"), []];
  const copyAnswer = () => {
    const copy = asked.cloneNode(true);
    copy.querySelector("#results").remove();
    copies.push(copy);
  };
  copyAnswer();
  for (let number = 0; number < queries; number++) {
    location.hash = `#/query/${number}${number + 1 < queries ? "" : "?top=48"}`;
    const answered = () => asked.querySelector(`[src*="/queries/${number}/"]`) && !asked.matches(".waiting");
    while (!answered()) await new Promise(requestAnimationFrame);
    copyAnswer();
  }
  document.getElementById("query").append(...copies);
  document.getElementById("start").hidden = false;
  const said = (part) => (copy) => copy.querySelector(part).textContent;
  return [copies.map(said("figcaption")), copies.map(said("#landmark"))];
}"""
"""Shows below the page, without results, the answer that is there and those to all queries.

Returns their photos and landmarks.
"""

STEP = 14
"""Between the reds of two landmarks, whose photos are nearer to each other."""


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A repository with three photos and one query per landmark, taken for the next: root, reds, queries."""
    rng = Random(0)
    root = tmp_path_factory.mktemp("named")
    landmarks = [make(rng) for make in KINDS.values()]

    def photo(place, red):
        name = [*KINDS.values()][place](rng).encode()[:251].decode(errors="ignore")
        path = f"data/mine/images/{landmarks[place]}/{name}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(plain(red))
        return Photo(path, landmarks[place])

    places = range(len(landmarks))
    reds = {photo(place, STEP * place + more): STEP * place + more for more in (0, 2, 4) for place in places}
    nexts = [*places[1:], 0]
    queries = {photo(place, STEP * nexts[place] + 1): landmarks[nexts[place]] for place in places}
    rows = {
        "plots/precision_recall.csv": [["recall", "precision"], [0, 0.9], [1, 0.3]],
        "plots/classes.csv": [
            ["class", "queries", "accuracy", "average_precision"],
            *([name, 1, 0, 0.5] for name in landmarks),
        ],
        "plots/confusion.csv": [
            ["actual", "predicted"],
            *([query[1], after] for query, after in queries.items()),
        ],
        "results.csv": [
            ["query_path", "query_class", "predicted_class", "rank", "distance", "image_path", "class_image"],
            *(
                [*query[:2], after, rank, rank / 7, *found[:2]]
                for query, after in queries.items()
                for rank, found in enumerate(rng.sample([*reds], 6), 1)
            ),
        ],
    }
    for name, (header, *content) in rows.items():
        (root / "reports" / name).parent.mkdir(parents=True, exist_ok=True)
        tables.write(root / "reports" / name, header, content)
    metrics = {"map": 0.5, "queries": len(queries), "index": len(reds), "positivesofalandmark" * 4: 3}
    (root / "reports/metrics.json").write_text(json.dumps(metrics))
    return root, reds, queries


@pytest.fixture(scope="module")
def address(named):
    root, reds, _ = named
    with served(open_index(root, reds)) as address:
        yield address


def spoken(name):
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def assert_fits(page):
    found = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        found += [f"at {width}: {what}" for what in page.evaluate(OVERFLOW)]
    assert found == []


def expect_text(page, selector, text):
    playwright.expect(page.locator(selector)).to_have_text(text)


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_no_name_overflows(open_page, address, named, tmp_path, locale):
    _, _, queries = named
    page = open_page(locale=locale, reduced_motion="reduce")
    name = f"{'א' * 20}{'W' * 211}.jpg"
    page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": plain(1)})
    page.wait_for_selector("#results:not([aria-busy]) li")
    photos, landmarks = page.evaluate(COPY_ANSWERS, len(queries))
    assert photos == [name, *(query.image_path for query in queries)]
    first, *_ = queries
    assert landmarks == [spoken(after) for after in (first.class_image, *queries.values())]
    expect_text(page, "#results li:nth-child(48) .rank", "48")
    with (tmp_path / name).open("wb") as file:
        file.truncate((20 << 20) + 1)
    page.set_input_files("#file", tmp_path / name)
    expect_text(page, "#problem", f"{name} has 21 MB, more than 20.")
    assert_fits(page)

    page.goto(f"{address}#/evaluation")
    page.click("text=More queries")
    playwright.expect(page.locator(".case")).to_have_count(len(queries))
    assert_fits(page)

    page.route("**/api/evaluation", crowd)
    actual, predicted = list(queries.items())[-1]
    kind = {"actual": actual.class_image, "predicted": predicted}
    page.goto(f"{address}#/evaluation?{urlencode(kind)}")
    expect_text(page, "#cases-title", f"{spoken(actual.class_image)}, taken for {spoken(predicted)}")
    expect_text(page, ".card caption", "The most frequent.")
    assert_fits(page)

    page.goto(f"{address}api")
    page.wait_for_selector(".operation")
    assert_fits(page)


def crowd(route):
    """The evaluation with twice as many landmarks, which are more than a matrix shows."""
    figures = route.fetch().json()
    figures["confusion"] += [pair | {"actual": f"{pair['actual']}2"} for pair in figures["confusion"]]
    route.fulfill(json=figures)
