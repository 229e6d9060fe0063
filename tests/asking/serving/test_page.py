"""The page in a real browser."""

import pytest

from landmarks.scoring.protocols import KAPPAS, PROTOCOLS

from .conftest import plain

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")

DROP = """([selector, bytes, kind]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
    : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector(selector).dispatchEvent(event);
}"""


def upload(page, red=11, name="mine.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": plain(red)})
    page.wait_for_selector("#results:not([aria-busy]) li")


def expect_text(page, selector, *texts):
    playwright.expect(page.locator(selector)).to_have_text(list(texts))


def expect_reds(page, *reds):
    expect_text(page, "#results .file", *(f"{red}.png" for red in reds))


def expect_focus(page, selector):
    playwright.expect(page.locator(selector)).to_be_focused()


def assert_accessible(page):
    report = axe.Axe().run(page).response
    assert len(report["passes"]) > 10
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in report["violations"]] == []


def test_a_photo_is_answered_and_the_order_changes_with_the_method(open_page):
    page = open_page()
    upload(page)
    expect_text(page, "#landmark", "Castle keep")
    expect_text(page, "#votes th", "Castle keep", "Old bridge")
    expect_text(page, "#votes .figure", "2 of 3", "1 of 3")
    expect_text(page, "#results .rank", "1", "2", "3", "4", "5")
    expect_text(page, "#results .far", "1.00", "1.00", "3.00", "9.00", "29.0")
    expect_reds(page, 10, 12, 14, 20, 40)
    page.check("input[value=two]", force=True)
    expect_reds(page, 10, 14, 40, 12, 20)
    expect_text(page, "#results .move", "", "↑1up 1", "↑2up 2", "↓2down 2", "↓1down 1")
    assert page.url.endswith("#/upload/1?rerank=two")


def test_the_evaluation_is_drawn_and_leads_to_its_queries(open_page):
    page = open_page()
    page.click("nav >> text=Evaluation")
    expect_text(page, ".metrics .value", "0.500", "0.750", "0.100")
    expect_text(page, ".matrix tbody th", "Castle keep", "Old bridge")
    expect_text(page, ".matrix tbody td", "1", "0", "1", "0")
    assert "0.60 at 0.5" in page.get_attribute(".curve", "aria-label")
    expect_text(page, ".who .name", "Old bridge", "Castle keep")
    expect_text(page, ".case:first-child .mark", "✕", "✓", "✕", "✓")
    page.click(".matrix td.wrong a")
    expect_text(page, "#cases-title", "Old bridge, taken for Castle keep")
    expect_text(page, ".who .name", "Old bridge")
    page.click(".who")
    expect_text(page, "#truth", "✕ it is catalogued as Old bridge")
    page.go_back()
    expect_text(page, "#cases-title", "Old bridge, taken for Castle keep")


def test_results_lead_on_going_back_works_and_an_address_says_it_all(open_page):
    page = open_page("#/photo/1?distance=L2&rerank=two")
    expect_reds(page, 10, 14, 40, 20)
    assert page.is_checked("input[value=L2]")
    page.click("#results li:nth-child(3) a")
    expect_reds(page, 20, 12, 14, 10)
    assert page.url.endswith("#/photo/4?distance=L2&rerank=two")
    page.go_back()
    expect_reds(page, 10, 14, 40, 20)
    assert page.title() == "Castle keep · Landmarks"


def test_an_address_that_changes_while_the_page_loads_is_the_one_shown(open_page):
    page = open_page()
    page.add_init_script("addEventListener('DOMContentLoaded', () => (location.hash = '#/photo/1'))")
    page.reload()
    expect_reds(page, 10, 14, 20, 40)
    playwright.expect(page.locator(".choices")).to_have_count(2)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_can_be_dropped_and_pasted(open_page, kind):
    page = open_page()
    page.evaluate(DROP, ["main", list(plain(40)), kind])
    expect_reds(page, 40, 20, 14, 12, 10)
    assert page.get_attribute("#photo img", "alt").endswith("dropped.png")


def test_a_photo_of_the_index_can_be_chosen_by_landmark(open_page):
    page = open_page()
    page.select_option("#pick", "old_bridge")
    expect_text(page, "#browse .file", "12.png", "20.png")
    page.click("#browse li:nth-child(2) a")
    expect_text(page, "#photo figcaption", "data/mine/images/old_bridge/20.png")


def test_the_keyboard_is_enough(open_page):
    page = open_page("#/photo/1")
    expect_reds(page, 10, 14, 20, 40)
    page.keyboard.press("Tab")
    expect_focus(page, "#skip")
    page.keyboard.press("Enter")
    expect_focus(page, "#main")
    page.keyboard.press("Tab")
    expect_focus(page, ".asked .choose")
    page.keyboard.press("Tab")
    expect_focus(page, "input[value=L1]")
    page.keyboard.press("Tab")
    expect_focus(page, "input[value=one]")
    page.keyboard.press("ArrowLeft")
    expect_reds(page, 10, 14, 40, 20)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect_text(page, "#photo figcaption", "data/mine/images/castle keep/10.png")
    expect_focus(page, "#landmark")


def test_what_cannot_be_answered_is_explained(open_page, tmp_path):
    page = open_page()
    problem = playwright.expect(page.locator("#problem"))
    page.set_input_files("#file", {"name": "no.png", "mimeType": "image/png", "buffer": b"no photo"})
    problem.to_contain_text("The photo cannot be read: not an image")
    assert_accessible(page)
    upload(page)
    problem.to_be_hidden()
    page.reload()
    problem.to_contain_text("Choose it once more")
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate((20 << 20) + 1)
    page.set_input_files("#file", tmp_path / "big.png")
    problem.to_contain_text("21 MB")
    # The browser itself reports an answer of 422.
    assert [line for line in open_page.said if "422" not in line] == []
    open_page.said.clear()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mine.txt", "text/plain"), ("mine.pdf", "application/pdf"), ("mine", ""), ("mine.mp4", "video/mp4")],
)
def test_a_photo_is_answered_whatever_its_name_says(open_page, name, kind):
    page = open_page()
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": plain(11)})
    expect_reds(page, 10, 12, 14, 20, 40)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(open_page, address, scheme, width):
    options = {
        "viewport": {"width": width, "height": 800},
        "color_scheme": scheme,
        "reduced_motion": "reduce",
    }
    page = open_page(**options)
    for place, ready in (
        ("#/photo/1", "#results li"),
        ("#/evaluation", ".case"),
        ("#/", "#start"),
        ("api", ".operation"),
    ):
        page.goto(address + place)
        page.wait_for_selector(ready)
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("img:not([alt])").count() == 0


def test_every_figure_of_an_evaluation_is_named_and_explained(open_page):
    shares = ["accuracy", "map", "map_reference", "precision_at_1", "precision_at_5", "recall_at_5"]
    counts = ["positives"]
    for setup in [name for setups in PROTOCOLS.values() for name in setups]:
        shares += [f"map_{setup}", *(f"mp_at_{k}_{setup}" for k in KAPPAS)]
        counts += [f"{name}_{setup}" for name in ("queries", "positives", "junk")]
    metrics = dict.fromkeys(shares, 0.12345) | dict.fromkeys(counts, 1234) | {"queries": 60, "index": 30}
    metrics |= {f"{name}_{end}": 0.2 for name in shares if name.startswith("map") for end in ("low", "high")}
    page = open_page()
    body = {"metrics": metrics, "landmarks": [], "confusion": [], "curve": [[0, 1], [1, 0]]}
    page.route("**/api/evaluation", lambda route: route.fulfill(json=body))
    page.click("nav >> text=Evaluation")
    page.wait_for_selector(".metrics")
    names, values, meanings = (
        page.locator(f".metrics {part}").all_text_contents() for part in ("dt", ".value", ".small")
    )
    assert values == ["0.123"] * len(shares) + ["1,234"] * len(counts)
    assert len(set(names)) == len(names)
    assert not any("_" in name for name in names)
    assert all(meanings)
    assert names[-len(counts)] == "Relevant photos"
    assert sum("between 0.200 and 0.200" in meaning for meaning in meanings) == 6


def test_distances_are_written_without_powers_of_ten(open_page):
    told = {
        None: "∞", 0: "0", 1.4e-15: "0", 5e-324: "0", 9.9e-7: "0", -6e-8: "0", 1e-6: "0.00000100",
        1.23456e-4: "0.000123", 0.7: "0.700", 1: "1.00", 29.04: "29.0", 99.9: "99.9", 250.6: "251"
    }  # fmt: skip
    far = "async (distances) => { const { far } = await import('/dom.js'); return distances.map(far); }"
    assert open_page().evaluate(far, list(told)) == list(told.values())
