"""Whether a page of another server can have a photo answered."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from .conftest import open_index, plain, served

OWN = "http://127.0.0.1"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # curl
        ({"Origin": OWN}, 200),
        ({"Origin": "http://127.0.0.1:81"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://127.0.0.1.evil.example"}, 403),
        ({"Origin": "null"}, 403),  # of a frame in a sandbox
        ({"Origin": ""}, 403),
        *(({"Origin": origin}, 403) for origin in ("http://[::1", "http://[x]", "http://a]b")),
        ({"Origin": OWN, "Host": "localhost"}, 403),
        ({"Origin": "http://localhost:8000", "Host": "LOCALHOST:8000"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": OWN}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://photos.example.org"}, 200),  # behind a proxy
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "image/png"])
def test_a_photo_sent_by_a_page_of_another_origin_is_refused(client, headers, status, kind):
    answer = client.post("/api/answer", content=plain(11), headers={"Content-Type": kind, **headers})
    assert answer.status_code == (415 if status == 200 and kind == "text/plain" else status)
    if status == 403:
        assert answer.json()["detail"] == "The request comes from a page of another server."


@pytest.mark.parametrize("path", ["/", "/page.js", "/healthz", "/api/options", "/api/photos/0/thumbnail"])
def test_a_link_from_another_server_leads_here(client, path):
    for site in ("cross-site", "same-site", "none"):
        headers = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": site}
        assert client.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_browser_is_refused_what_a_page_of_another_server_sends(browser, plain_root, kind):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    index = open_index(plain_root)
    asked, answer = [], index.answer
    index.answer = lambda *arguments: asked.append(arguments) or answer(*arguments)
    with served(index) as address, ThreadingHTTPServer(("127.0.0.1", 0), Page) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever).start()
        send = """async ([url, kind, bytes]) => {
            const body = new Blob([new Uint8Array(bytes)], { type: kind });
            const request = fetch(url, { method: "POST", mode: "no-cors", body });
            return request.then((answer) => answer.status, () => null);
        }"""
        arguments = [f"{address}api/answer", kind, list(plain(11))]
        page = browser.new_page()
        try:
            page.goto(f"http://127.0.0.1:{elsewhere.server_port}/")
            assert page.evaluate(send, arguments) is None
            assert asked == []
            page.goto(address)
            status = page.evaluate(send.replace("no-cors", "same-origin"), arguments)
            assert status == (415 if kind == "text/plain" else 200)
            assert len(asked) == (kind != "text/plain")
        finally:
            page.close()
            elsewhere.shutdown()
