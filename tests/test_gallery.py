from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks import params
from landmarks.errors import InputError
from landmarks.gallery import FRAME, GAP, TILE, Tile, contact_sheet, match_sheet

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
    options = params.load(Path(__file__).parents[1] / "params.yaml").rerank_options.geometric

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
