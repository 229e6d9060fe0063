"""An index whose answers can be worked out by hand: plain photos, described by their mean colour."""

import contextlib
import io
import os
import shutil
import threading
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import yaml
from fastapi.testclient import TestClient
from PIL import Image

from landmarks import params
from landmarks.asking import questions
from landmarks.asking.serving import server
from landmarks.photos import images
from landmarks.photos.catalog import Photo

REDS = [("castle keep", 10), ("old_bridge", 12), ("castle keep", 14), ("old_bridge", 20), ("castle keep", 40)]
"""The landmark and the red of each photo of the index: L1 distances to a red of 11 are 1, 1, 3, 9 and 29."""


class MeanColour:
    """Describes a photo by its mean red, green and blue, from 0 to 255, for one caller at a time."""

    kind = "colour"
    dimensions = 3

    def __init__(self):
        self.alone = threading.Lock()

    def describe(self, photos, batch_size):
        if not self.alone.acquire(blocking=False):
            raise RuntimeError("two describe at the same time")
        try:
            sleep(0.001)
            for photo in photos:
                yield np.asarray(images.read(photo), np.float32).mean(axis=(0, 1))[None]
        finally:
            self.alone.release()


def plain(red, size=(40, 30), format="PNG"):  # noqa: A002
    """The content of a photo of one colour."""
    with io.BytesIO() as file:
        Image.new("RGB", size, (red, 100, 100)).save(file, format)
        return file.getvalue()


def open_index(root, reds=None, **options):
    """The index of `reds` of photos at `root`, with `options` instead of the parameters of the same names."""
    reds = reds or {Photo(f"data/mine/images/{name}/{red}.png", name): red for name, red in REDS}
    sections = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())
    for name, value in options.items():
        section, _, key = name.rpartition("__")
        (sections[section] if section else sections)[key] = value
    vectors = np.array([[red, 100, 100] for red in reds.values()], np.float32)
    index = questions.Index(
        root, params.Params.model_validate(sections), vectors, [*reds], {"kind": "colour"}
    )
    index.__dict__["describer"] = MeanColour()
    return index


@pytest.fixture(scope="session")
def plain_root(tmp_path_factory):
    """A repository with the photos, two queries and their evaluation; the first query was answered wrong."""
    root = tmp_path_factory.mktemp("plain")
    queries = [("old_bridge", 11), ("castle keep", 15)]
    for name, red in [*REDS, *queries]:
        path = root / f"data/mine/images/{name}/{red}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plain(red))
    files = {
        "metrics.json": '{"accuracy": 0.5, "map": 0.75, "odd": 0.1, "queries": 2, "index": 5}',
        "plots/classes.csv": "class,queries,accuracy,average_precision\n"
        "castle keep,1,1.0,0.7\nold_bridge,1,0.0,nan\n",
        "plots/confusion.csv": "actual,predicted\ncastle keep,castle keep\nold_bridge,castle keep\n",
        "plots/precision_recall.csv": "recall,precision\n0.00,0.9\n0.50,0.6\n1.00,0.3\n",
        "results.csv": "query_path,query_class,predicted_class,rank,distance,image_path,class_image\n"
        # Relevant first: AP is 1 over the three results that are kept.
        + "".join(
            f"data/mine/images/castle keep/15.png,castle keep,castle keep,{rank},{distance},"
            f"data/mine/images/castle keep/{red}.png,castle keep\n"
            for rank, distance, red in ((1, 1, 14), (2, 5, 10), (3, 25, 40))
        )
        # Relevant at the ranks 2 and 4, of two there are: AP is (1/2 + 2/4) / 2.
        + "".join(
            f"data/mine/images/old_bridge/11.png,old_bridge,castle keep,{rank},{distance},"
            f"data/mine/images/{name}/{red}.png,{name}\n"
            for rank, distance, name, red in (
                (1, 1, "castle keep", 10),
                (2, 1, "old_bridge", 12),
                (3, 3, "castle keep", 14),
                (4, 9, "old_bridge", 20),
            )
        ),
    }
    for name, content in files.items():
        path = root / "reports" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@contextlib.contextmanager
def served(index, most=None):
    """The address of a running server of `index`, for `most` connections at a time."""
    listening = server.listen("127.0.0.1", 0, most)
    running = server.create_server(index, listening, server.LOOPBACK)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def address(plain_root):
    """The address of a running server of that index."""
    with served(open_index(plain_root)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as driver:
        # As root, which CI is, Chromium has no sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; at the end there was nothing on the console, and no request to another machine."""
    said, asked, contexts = [], [], []

    def opener(hash="", **options):  # noqa: A002
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + hash)
        page.wait_for_selector("#browse li, .case")
        return page

    opener.said = said
    yield opener
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith((address, f"blob:{address}"))] == []
    assert asked


LOCAL = "http://127.0.0.1"


def client_of(index, **options):
    return TestClient(server.create_app(index, **options), LOCAL, raise_server_exceptions=False)


@pytest.fixture
def client(plain_root):
    return client_of(open_index(plain_root))
