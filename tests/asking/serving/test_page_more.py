"""The page with an index of more photos than it shows at a time."""

import pytest

from landmarks.photos.catalog import Photo

from .conftest import open_index, plain, served

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

COUNT, CASTLES = 205, 150


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    photos = {}
    for red in range(COUNT):
        name = "castle" if red < CASTLES else "tower"
        photos[Photo(f"data/mine/images/{name}/{red:03}.png", name)] = red
    for photo, red in photos.items():
        path = root / photo.image_path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plain(red, (8, 6)))
    with served(open_index(root, photos)) as address:
        yield address


def expect_reds(page, names, reds):
    playwright.expect(page.locator(names)).to_have_text([f"{red:03}.png" for red in reds])


def test_more_of_the_photos_are_shown_until_all_are(open_page):
    page = open_page()
    page.select_option("#pick", "tower")
    for count in (24, 48):
        expect_reds(page, "#browse .detail", range(CASTLES, CASTLES + count))
        page.click("#more-photos")
    expect_reds(page, "#browse .detail", range(CASTLES, COUNT))
    playwright.expect(page.locator("#more-photos")).to_be_hidden()


def test_more_results_are_shown_up_to_as_many_as_the_server_gives(open_page):
    page = open_page()
    page.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": plain(0)})
    for count in (12, 48):
        expect_reds(page, "#results .file", range(count))
        page.click("#more-results")
    expect_reds(page, "#results .file", range(200))
    playwright.expect(page.locator("#more-results")).to_be_hidden()
