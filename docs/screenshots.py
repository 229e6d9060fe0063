"""Take the screenshots of the page, from what `dvc repro` built: `make screenshots`. Needs Chromium."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
COLOURS = 200  # of a palette, which makes the files a third as large


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("no Chromium: apt-get install chromium")
    command = [sys.executable, "-m", "landmarks", "serve", "--port", "0", "--json"]
    with ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(server.terminate)
        driver = stack.enter_context(sync_playwright())
        assert server.stdout
        address = json.loads(server.stdout.readline())["url"]
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 800}, reduced_motion="reduce")
        # The query of the evaluation that was answered worst, of those whose first result is right.
        queries = page.request.get(f"{address}api/evaluation/queries?limit=200").json()["queries"]
        number = next(one["number"] for one in queries if one["results"][0]["landmark"] == one["landmark"])
        page.goto(f"{address}#/query/{number}")
        page.check("input[value=two]", force=True)
        page.wait_for_load_state("networkidle")
        page.reload()  # the first answer waited for the model to load
        save(page, "page-query.png")
        page.goto(f"{address}#/evaluation")
        page.wait_for_selector(".case")
        page.set_viewport_size({"width": 1240, "height": 1500})
        save(page, "page-evaluation.png")
        browser.close()


def save(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG).save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()
