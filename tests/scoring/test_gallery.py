import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks import params
from landmarks.errors import InputError
from landmarks.scoring.gallery import COLUMNS, FRAME, GAP, TILE, Tile, contact_sheet, match_sheet, page

GREEN, RED, GREY = (26, 152, 80), (215, 48, 39), (68, 68, 68)
WHITE = (255, 255, 255)
STEP = TILE[0] + 2 * FRAME + GAP
TEXT_TOP = GAP + TILE[1] + 2 * FRAME


@pytest.fixture
def blue(tmp_path):
    path = tmp_path / "blue.png"
    Image.new("RGB", (64, 64), "blue").save(path)
    return path


def sheet_of(path, *rights, lines=("name", "0.5")):
    return contact_sheet([Tile(path, lines, right) for right in rights])


def text_of(sheet, place=0):
    left = GAP + place * STEP
    return np.asarray(sheet)[TEXT_TOP:, left : left + STEP - GAP]


@pytest.mark.parametrize("tiles", [1, 2, 7])
def test_tiles_stand_in_one_row(blue, tiles):
    sheets = [sheet_of(blue, *[None] * count) for count in (tiles, tiles + 1)]
    assert sheets[0].mode == "RGB"
    assert sheets[0].width == GAP + tiles * STEP
    assert sheets[0].height == sheets[1].height > TEXT_TOP


@pytest.mark.parametrize("y", [GAP, GAP + TILE[1] // 2, GAP + TILE[1] + 2 * FRAME - 1])
def test_right_is_framed_green_wrong_red_and_the_query_grey(blue, y):
    sheet = sheet_of(blue, None, True, False)
    for place, colour in enumerate([GREY, GREEN, RED]):
        left = GAP + place * STEP
        right = left + TILE[0] + 2 * FRAME
        columns = [*range(left, left + FRAME), *range(right - FRAME, right)]
        assert {sheet.getpixel((x, y)) for x in columns} == {colour}
        assert sheet.getpixel((left - 1, y)) == sheet.getpixel((right, y)) == WHITE


def test_the_whole_photo_is_shown_centred_in_its_tile(blue):
    inside = np.asarray(sheet_of(blue, True))[GAP + FRAME :, GAP + FRAME :][: TILE[1], : TILE[0]]
    is_blue = (inside == (0, 0, 255)).all(axis=2)
    ys, xs = np.nonzero(is_blue)
    assert np.ptp(xs) == np.ptp(ys)
    assert (ys.min(), ys.max()) == (0, TILE[1] - 1)
    assert abs(xs.min() - (TILE[0] - 1 - xs.max())) <= 1


def test_lines_are_written_below_in_the_colour_of_the_frame(blue):
    sheet = sheet_of(blue, None, True, False, lines=("MMMM", "MMMM"))
    for place, colour in enumerate([GREY, GREEN, RED]):
        text = text_of(sheet, place)
        half = len(text) // 2
        for part in (text[:half], text[half:]):
            assert (part == colour).all(axis=2).any()
            assert (part == WHITE).all(axis=2).any()


def test_a_long_name_is_shortened_to_its_tile(blue):
    sheet = sheet_of(blue, True, True, lines=("M" * 300, "0.5"))
    gap = np.asarray(sheet)[:, GAP + STEP - GAP + 1 : GAP + STEP]
    assert (gap == 255).all()
    longer = sheet_of(blue, True, True, lines=("M" * 300 + "W", "0.5"))
    np.testing.assert_array_equal(np.asarray(sheet), np.asarray(longer))
    short = sheet_of(blue, True, True, lines=("M" * 5, "0.5"))
    assert (text_of(short) != 255).sum() < (text_of(sheet) != 255).sum() / 2


@pytest.mark.parametrize(
    "name", ["故宫博物院", "Παρθενών", "المسجد الأقصى", "🗼" * 60, "e\u0301\u200d\u202e", "a\nb", "", " "]
)
def test_any_unicode_name_is_drawn_or_left_blank_but_does_not_fail(blue, name):
    assert sheet_of(blue, True, lines=(name, name)).size == sheet_of(blue, True).size


def test_matches_are_drawn_from_where_they_are_to_where_they_are_found(tmp_path):
    tiles = np.random.default_rng(0).integers(0, 200, (30, 40), dtype=np.uint8)
    photo = Image.fromarray(tiles).resize((640, 480), Image.Resampling.NEAREST).convert("RGB")
    photo.save(tmp_path / "a.png")
    photo.crop((0, 0, 320, 480)).save(tmp_path / "left half.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blank.png")
    names = ("a.png", "left half.png", "blank.png")
    query, half, blank = (tmp_path / name for name in names)
    options = params.load(Path(__file__).parents[2] / "params.yaml").rerank_options.geometric

    sheet = match_sheet(query, [half, blank], options)

    assert sheet.width == 2 * TILE[0] + 3 * GAP
    green = (np.asarray(sheet, int) - GREEN == 0).all(axis=2)
    height = sheet.height // 2
    assert not green[height + GAP :].any()
    columns = np.flatnonzero(green.any(axis=0))
    # From the left half of the query, which fills its tile, to the whole of the half, whose width is halved.
    assert columns.min() < GAP + 15
    assert GAP + TILE[0] + GAP + 90 < columns.max() < GAP + TILE[0] + GAP + 115


def test_a_missing_photo_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg: no such file"):
        sheet_of(tmp_path / "gone.jpg", True)


def test_many_tiles_stand_in_rows(blue):
    one, three = (sheet_of(blue, *[True] * count) for count in (COLUMNS, 2 * COLUMNS + 1))
    assert three.width == one.width
    assert three.height - GAP == 3 * (one.height - GAP)
    below = (GAP, GAP + 2 * (one.height - GAP))
    assert three.getpixel(below) == GREEN
    assert three.getpixel((GAP + STEP, below[1])) == WHITE


class Elements(HTMLParser):
    """The elements of a page and the text of all but its style, in order."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.open = tag
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.open != "style" and data.strip():
            self.text.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


NASTY = '"><script>alert(1)</script>&amp;'


@pytest.fixture
def nasty_page(blue):
    tiles = [
        Tile(blue, [NASTY, "AP 0.50"], None),
        Tile(blue, ["gate", "0.1"], True),
        Tile(blue, [NASTY, "0.2"], False),
    ]
    return page(f"Results: {NASTY}", {"map": 0.5, "<b>": "<i>"}, {"Worst <1>": [tiles], "None": []})


def test_a_page_shows_its_facts_first_and_then_each_row(nasty_page):
    parsed = Elements(nasty_page)
    title = f"Results: {NASTY}"
    facts = ["map", "0.5", "<b>", "<i>", "Worst <1>"]
    query = ["query", NASTY, "AP 0.50"]
    results = ["result 1", "right", "gate", "0.1", "result 2", "wrong", NASTY, "0.2"]
    assert parsed.text == [title, title, *facts, *query, *results, "None"]
    assert [photo["alt"] for photo in parsed.all("img")] == [
        f"query: {NASTY}",
        "result 1: gate",
        f"result 2: {NASTY}",
    ]


def test_a_page_holds_all_that_it_shows(nasty_page):
    parsed = Elements(nasty_page)
    assert not parsed.all("script") + parsed.all("link")
    for photo in parsed.all("img"):
        kind, _, content = photo["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as thumbnail:
            assert thumbnail.size == (64, 64)
            assert thumbnail.getpixel((32, 32))[2] > 250
    assert {name for _, attributes in parsed.elements for name in attributes} & {
        "href",
        "srcset",
        "onclick",
    } == set()
    policy = [
        meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_a_page_suits_phones_and_dark_screens(nasty_page):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in Elements(nasty_page).all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in nasty_page


def test_large_photos_are_shrunk_to_thumbnails(tmp_path):
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.jpg", comment=b"secret")
    html = page("", {}, {"": [[Tile(tmp_path / "large.jpg", ["x"], None)]]})
    content = base64.b64decode(Elements(html).all("img")[0]["src"].partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (TILE[0], TILE[0] // 2)
    assert b"secret" not in content
