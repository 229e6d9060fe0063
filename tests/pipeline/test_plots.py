"""The charts of `dvc plots show` need no network."""

import re
from html.parser import HTMLParser

import pytest
from dvc_render import VegaRenderer

from .conftest import ROOT, Project


class Page(HTMLParser):
    """What a page has its reader fetch, and the text that it shows."""

    def __init__(self, html: str):
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.text += data


@pytest.fixture(scope="module")
def shown(project: Project) -> str:
    done = project.run("dvc", "plots", "show")
    assert "failed" not in done.stdout + done.stderr
    return (project.root / "dvc_plots/index.html").read_text(encoding="utf-8")


def test_the_page_fetches_only_the_contact_sheets_beside_it(project: Project, shown: str):
    addresses = Page(shown).addresses
    assert len(addresses) == 4
    for address in addresses:
        assert re.fullmatch(r"static/workspace_reports_gallery_(sample|worst)_0[12]\.jpg", address)
        assert (project.root / "dvc_plots" / address).is_file()


def test_the_page_shows_every_chart_and_sheet_and_no_script(shown: str):
    sheets = [f"reports/gallery/{kind}/{place:02}.jpg" for kind in ("sample", "worst") for place in (1, 2)]
    assert Page(shown).text.split() == [
        "DVC",
        "plots",
        *(word for sheet in sheets for word in (sheet, "workspace")),
    ]
    charts = re.findall(r"vegaEmbed\('#(\w+)', spec\)", shown)
    assert len(charts) == len(set(charts)) == 5


def test_the_drawing_library_is_the_one_that_dvc_names():
    named = re.findall(r"npm/([\w-]+@[\d.]+)", VegaRenderer.SCRIPTS)
    template = (ROOT / ".dvc/plots.html").read_text(encoding="utf-8")
    assert len(named) == 3
    assert all(library in template.partition("<script>")[0] for library in named)
    assert template.count("<script>") == template.count("</script>") == 3
