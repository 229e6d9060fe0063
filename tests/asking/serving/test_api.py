import asyncio
import io
import json
import re
import shutil
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from fastapi import HTTPException, Request
from PIL import Image

from landmarks import params
from landmarks.asking.questions import Index
from landmarks.asking.serving import uploads
from landmarks.asking.serving.guard import HEADERS

from .conftest import client_of, open_index, plain


def rows(answer):
    return [result["row"] for result in answer.json()["results"]]


def test_an_upload_is_answered_as_worked_out_by_hand(client):
    answer = client.post("/api/answer", content=plain(11), params={"distance": "L1", "rerank": "one"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["landmark"] == "castle keep"
    assert body["votes"] == [{"landmark": "castle keep", "votes": 2}, {"landmark": "old_bridge", "votes": 1}]
    assert (body["nearest"], body["query"]) == (1, None)
    assert body["results"][1] == {
        "rank": 2,
        "row": 1,
        "path": "data/mine/images/old_bridge/12.png",
        "landmark": "old_bridge",
        "distance": 1,
    }
    assert [result["distance"] for result in body["results"]] == [1, 1, 3, 9, 29]


def test_the_method_asked_for_changes_the_order(client):
    orders = {
        method: rows(client.post("/api/answer", content=plain(11), params={"rerank": method, "top": 4}))
        for method in ("one", "two")
    }
    assert orders == {"one": [0, 1, 2, 3], "two": [0, 2, 4, 1]}


def test_what_is_not_asked_for_is_as_in_the_parameters(plain_root):
    client = client_of(open_index(plain_root, distance="L2", rerank="two"))
    body = client.post("/api/answer", content=plain(11)).json()
    assert (body["distance"], body["rerank"]) == ("L2", "two")
    options = client.get("/api/options").json()
    assert (options["distance"], options["rerank"]) == ("L2", "two")


def test_every_method_that_is_offered_is_answered_and_no_other(client):
    options = client.get("/api/options").json()
    assert options["landmarks"] == [{"name": "castle keep", "photos": 3}, {"name": "old_bridge", "photos": 2}]
    for name in ("distance", "rerank"):
        offered = [method["name"] for method in options[f"{name}s"]]
        assert getattr(params.load(Path(__file__).parents[3] / "params.yaml"), name) in offered
        for method in offered:
            assert client.get("/api/photos/0/answer", params={name: method}).json()[name] == method
        refused = client.get("/api/photos/0/answer", params={name: "other"})
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith(f"{name}: 'other'")


def test_an_upload_is_answered_as_the_library_answers_its_file_each_time(built):
    index = Index.open(built)
    client = client_of(index)
    for photo in sorted((built / "queries").iterdir()):
        (answer,) = index.answer(index.describe([photo]), "L3", "two", 9)
        for _ in range(2):
            body = client.post(
                "/api/answer",
                content=photo.read_bytes(),
                params={"distance": "L3", "rerank": "two", "top": 9},
            ).json()
            assert body["landmark"] == answer.landmark
            assert [(one["landmark"], one["votes"]) for one in body["votes"]] == list(answer.votes.items())
            assert [(one["rank"], one["row"]) for one in body["results"]] == [
                (result.rank, result.row) for result in answer.results
            ]
            far = [np.inf if one["distance"] is None else one["distance"] for one in body["results"]]
            assert far == [result.distance for result in answer.results]
            assert np.inf in far  # of the blank photo


def test_a_photo_that_was_uploaded_before_is_not_described_again(plain_root, monkeypatch):
    index = open_index(plain_root)
    client = client_of(index)
    described = []
    describe = index.describe
    monkeypatch.setattr(index, "describe", lambda photos: described.extend(photos) or describe(photos))
    for red in (11, 12, 11):
        client.post("/api/answer", content=plain(red), params={"distance": "L2"})
    assert described == [plain(11), plain(12)]


@pytest.mark.parametrize("seed", range(3))
def test_the_photos_that_were_asked_for_last_are_remembered_and_no_others(plain_root, monkeypatch, seed):
    monkeypatch.setattr(uploads, "REMEMBERED", 4)
    index = open_index(plain_root)
    client = client_of(index)
    described, expected = [], []
    describe = index.describe
    monkeypatch.setattr(index, "describe", lambda photos: described.extend(photos) or describe(photos))
    remembered = lru_cache(maxsize=4)(expected.append)
    photos = [plain(red) for red in range(10, 17)]
    for number in np.random.default_rng(seed).integers(0, len(photos), 40):
        assert client.post("/api/answer", content=photos[number]).status_code == 200
        remembered(photos[number])
    assert described == expected


@pytest.mark.parametrize(
    "part", [slice(0, 10), slice(10, 20), slice(20, 30)], ids=["first", "middle", "last"]
)
def test_photos_that_differ_in_some_bytes_alone_are_not_taken_for_each_other(client, part):
    for red in (13, 28, 40, 13):
        pixels = np.full((30, 40, 3), (10, 100, 100), np.uint8)
        pixels[part, :, 0] = red
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "BMP")
            answer = client.post("/api/answer", content=file.getvalue(), params={"distance": "L1", "top": 5})
        mean = (10 + 10 + red) / 3
        assert [one["distance"] for one in answer.json()["results"]] == pytest.approx(
            sorted(abs(mean - other) for other in (10, 12, 14, 20, 40)), rel=1e-5
        )


def test_a_photo_of_the_index_is_not_its_own_result(client):
    answer = client.get("/api/photos/1/answer")
    assert rows(answer) == [0, 2, 3, 4]
    assert answer.json()["query"] == {"path": "data/mine/images/old_bridge/12.png", "landmark": "old_bridge"}


def test_a_photo_too_far_from_all_resembles_no_landmark(plain_root):
    client = client_of(open_index(plain_root, evaluate__reject_above=0.5))
    assert client.post("/api/answer", content=plain(11)).json()["landmark"] is None
    assert client.post("/api/answer", content=plain(12)).json()["landmark"] == "castle keep"


def test_photos_are_listed_by_landmark_and_in_parts(client):
    def listed(**search):
        body = client.get("/api/photos", params=search).json()
        return body["total"], [photo["row"] for photo in body["photos"]]

    assert listed() == (5, [0, 1, 2, 3, 4])
    assert listed(offset=1, limit=2) == (5, [1, 2])
    assert listed(landmark="old_bridge") == (2, [1, 3])
    assert listed(landmark="nowhere") == (0, [])


@pytest.mark.parametrize(("size", "side"), [("thumbnail", 320), ("photo", 1600)])
def test_photos_are_shown_as_small_jpegs_without_what_the_file_says_of_itself(
    plain_root, tmp_path, size, side
):
    shutil.copytree(plain_root, tmp_path, dirs_exist_ok=True)
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    path = tmp_path / "data/mine/images/castle keep/10.png"
    Image.new("RGB", (2000, 1000), "red").save(path, exif=exif)
    client = client_of(open_index(tmp_path))
    answer = client.get(f"/api/photos/0/{size}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert b"where I live" not in answer.content
    shown = Image.open(io.BytesIO(answer.content))
    assert shown.size == (side, side // 2)
    assert shown.getpixel((9, 9))[0] > 250

    tag = {"If-None-Match": answer.headers["etag"]}
    assert client.get(f"/api/photos/0/{size}", headers=tag).status_code == 304
    Image.new("RGB", (50, 50), "blue").save(path)
    changed = client.get(f"/api/photos/0/{size}", headers=tag)
    assert Image.open(io.BytesIO(changed.content)).getpixel((9, 9))[2] > 250
    path.unlink()
    gone = client.get(f"/api/photos/0/{size}")
    assert (gone.status_code, gone.json()["detail"]) == (404, "data/mine/images/castle keep/10.png is gone.")


@pytest.mark.parametrize(
    "path",
    [
        "/api/photos/5/thumbnail",
        "/api/photos/-1/thumbnail",
        "/api/photos/99999999999999999999999999/photo",
        "/api/photos/..%2f..%2fparams.yaml/photo",
        "/api/photos/%2e%2e/%2e%2e/params.yaml",
        "/api/photos/data/mine/images/castle keep/10.png",
        "/api/evaluation/queries/2/photo",
        "/../params.yaml",
        "/page.js/../../params.yaml",
        "/%2e%2e/%2e%2e/params.yaml",
        "/etc/passwd",
        "/..%5c..%5cparams.yaml",
        "/page.css%00.png",
    ],
)
def test_only_photos_of_the_index_and_the_evaluation_can_be_fetched(address, path):
    # By hand, for clients tidy up paths before they send them.
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            f"GET {path.replace(' ', '%20')} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert re.match(rb"HTTP/1.1 (404|422) ", answer)
    assert "detail" in json.loads(answer.partition(b"\r\n\r\n")[2])


def test_the_evaluation_is_that_of_the_reports(client):
    body = client.get("/api/evaluation").json()
    assert body["metrics"] == {"accuracy": 0.5, "map": 0.75, "odd": 0.1, "queries": 2, "index": 5}
    assert body["curve"] == [[0, 0.9], [0.5, 0.6], [1, 0.3]]
    assert body["confusion"] == [
        {"actual": "castle keep", "predicted": "castle keep", "queries": 1},
        {"actual": "old_bridge", "predicted": "castle keep", "queries": 1},
    ]
    assert [score["average_precision"] for score in body["landmarks"]] == [0.7, None]


def test_the_worst_queries_come_first(client):
    body = client.get("/api/evaluation/queries").json()
    assert [(query["number"], query["precision"]) for query in body["queries"]] == [(1, 0.5), (0, 1.0)]
    worst = body["queries"][0]
    assert (worst["landmark"], worst["predicted"]) == ("old_bridge", "castle keep")
    assert [found["row"] for found in worst["results"]] == [0, 1, 2, 3]

    def numbers(**search):
        return [
            one["number"] for one in client.get("/api/evaluation/queries", params=search).json()["queries"]
        ]

    assert numbers(offset=1) == [0]
    assert numbers(actual="old_bridge") == [1]
    assert numbers(predicted="castle keep", limit=1) == [1]
    assert numbers(actual="old_bridge", predicted="old_bridge") == []


def test_a_query_of_the_evaluation_can_be_seen_and_asked_again(client):
    shown = client.get("/api/evaluation/queries/0/thumbnail")
    assert abs(Image.open(io.BytesIO(shown.content)).getpixel((5, 5))[0] - 15) < 3
    answer = client.get("/api/evaluation/queries/0/answer")
    assert rows(answer) == [2, 1, 0, 3, 4]
    assert answer.json()["query"]["landmark"] == "castle keep"


def test_an_evaluation_that_is_missing_or_broken_is_explained_and_a_new_one_is_seen(plain_root, tmp_path):
    shutil.copytree(plain_root, tmp_path, dirs_exist_ok=True)
    client = client_of(open_index(tmp_path))
    metrics = tmp_path / "reports/metrics.json"
    text = metrics.read_text()
    for content, reason in ((None, "no such file"), ("{", "not as `evaluate` writes it"), ("[]", "list")):
        metrics.unlink(missing_ok=True)
        if content is not None:
            metrics.write_text(content)
        answer = client.get("/api/evaluation")
        assert answer.status_code == 404
        assert "metrics.json" in answer.json()["detail"]
        assert reason in answer.json()["detail"]
    metrics.write_text(text.replace("0.75", "0.25"))
    assert client.get("/api/evaluation").json()["metrics"]["map"] == 0.25


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/page.js", 200), ("/api", 200), ("/healthz", 200), ("/api/photos/0/thumbnail", 200),
     ("/nowhere", 404), ("/api/photos/x/answer", 422)],
)  # fmt: skip
def test_every_answer_has_the_headers(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    assert HEADERS.items() <= {name.title(): value for name, value in answer.headers.items()}.items()
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_what_should_not_happen_is_a_sentence_too(plain_root, monkeypatch):
    index = open_index(plain_root)
    monkeypatch.setattr(index, "answer", lambda *_: 1 / 0)
    answer = client_of(index).get("/api/photos/0/answer")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "The server failed (ZeroDivisionError)."}
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_too_many_bytes_are_refused_before_they_are_read(client, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 3 << 20)
    declared = client.post("/api/answer", content=b"x", headers={"Content-Length": str((3 << 20) + 1)})
    assert (declared.status_code, declared.json()["detail"]) == (413, "The photo has more than 3 MB.")
    assert client.post("/api/answer", content=bytes(3 << 20)).status_code == 422


def receive_from(receive):
    async def run():
        async with uploads.Room().receive(Request({"type": "http", "headers": []}, receive)):
            pass

    asyncio.run(run())


def test_a_body_without_end_is_refused_when_it_is_too_large(monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 3 << 20)
    received = 0

    async def receive():
        nonlocal received
        received += 1
        return {"type": "http.request", "body": bytes(1 << 20), "more_body": True}

    with pytest.raises(HTTPException, match="413"):
        receive_from(receive)
    assert received == 4


def test_a_body_that_does_not_come_or_breaks_off_is_given_up(monkeypatch):
    monkeypatch.setattr(uploads, "SECONDS", 0.05)

    async def nothing():
        await asyncio.sleep(60)

    async def broken():
        return {"type": "http.disconnect"}

    for receive, status in ((nothing, "408"), (broken, "400")):
        with pytest.raises(HTTPException, match=status):
            receive_from(receive)


async def stalling(kilobytes):
    """The messages of a client that sends so much and then no more."""
    yield {"type": "http.request", "body": bytes(kilobytes << 10), "more_body": True}
    await asyncio.sleep(60)


async def whole(kilobytes):
    """Those of one that sends all, in two pieces."""
    for more in (True, False):
        yield {"type": "http.request", "body": bytes(kilobytes << 9), "more_body": more}


def upload_of(messages):
    return Request({"type": "http", "headers": []}, messages.__anext__)


@pytest.mark.parametrize("stalled", [[90], [30, 30, 30], [1] * 90, [60, 30]])
def test_where_uploads_fill_their_memory_the_longest_under_way_goes(monkeypatch, stalled):
    monkeypatch.setattr(uploads, "MAX_HELD", 100 << 10)
    room, outcomes = uploads.Room(), []

    async def upload(name, messages):
        try:
            async with room.receive(upload_of(messages)) as photo:
                outcomes.append((name, len(photo) >> 10))
        except HTTPException as error:
            outcomes.append((name, error.status_code))

    async def run():
        slow = [asyncio.create_task(upload(name, stalling(size))) for name, size in enumerate(stalled)]
        await asyncio.sleep(0)
        for _ in range(20):
            await upload("honest", whole(12))
            await asyncio.sleep(0.001)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(run())
    assert outcomes.count(("honest", 12)) == 20
    refused = [outcome for outcome in outcomes if outcome[0] != "honest"]
    assert refused == [(name, 503) for name in range(len(refused))]  # the first come first
    assert 1 <= len(refused) <= max(2, len(stalled) // 9)


@pytest.mark.parametrize(("clients", "size", "fit"), [(8, 20, 5), (12, 50, 2), (40, 3, 33), (2, 100, 1)])
def test_no_more_uploads_go_than_leave_room_to_the_others(monkeypatch, clients, size, fit):
    monkeypatch.setattr(uploads, "MAX_HELD", 100 << 10)
    room, outcomes = uploads.Room(), []

    async def arriving():
        for left in reversed(range(size)):
            await asyncio.sleep(0)
            yield {"type": "http.request", "body": bytes(1 << 10), "more_body": bool(left)}

    async def upload():
        try:
            async with room.receive(upload_of(arriving())) as photo:
                outcomes.append(len(photo) >> 10)
                await asyncio.sleep(0.01)
        except HTTPException as error:
            outcomes.append(error.status_code)

    async def run():
        await asyncio.gather(*(upload() for _ in range(clients)))

    asyncio.run(run())
    assert sorted(outcomes) == [size] * fit + [503] * (clients - fit)


def test_uploads_that_wait_for_their_answers_leave_no_room_to_others(monkeypatch):
    monkeypatch.setattr(uploads, "MAX_HELD", 100 << 10)
    room = uploads.Room()

    async def run():
        async with room.receive(upload_of(whole(60))), room.receive(upload_of(whole(40))):
            with pytest.raises(HTTPException, match="503: The server has no room for more photos"):
                async with room.receive(upload_of(stalling(2))):
                    pass
        async with room.receive(upload_of(whole(100))):
            pass

    asyncio.run(run())


@pytest.mark.parametrize(
    ("kind", "status"),
    [(None, 200), ("image/jpeg", 200), ("IMAGE/PNG", 200), ("image/x-unheard-of", 200),
     ("application/octet-stream", 200), ("application/x-www-form-urlencoded", 200), ("text/plain", 415),
     ("text/plain; charset=image/png", 415), ("application/json", 415), ("", 200), ("imagery", 415),
     ("multipart/form-data; boundary=x", 415), ("Multipart/Mixed", 415), (" text/html", 415)],
)  # fmt: skip
def test_a_body_that_says_it_is_no_photo_is_refused(client, kind, status):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post("/api/answer", content=plain(11), headers=headers)
    assert answer.status_code == status
    assert status == 200 or answer.json()["detail"].startswith("The body must be the photo itself, ")


def test_too_many_pixels_are_refused_before_they_are_decoded(client, monkeypatch):
    photo = plain(11, (40, 31))
    monkeypatch.setattr(uploads, "MAX_PIXELS", 1200)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    answer = client.post("/api/answer", content=photo)
    assert answer.status_code == 413
    assert "40 x 31" in answer.json()["detail"]


@pytest.mark.parametrize("content", [b"", b"x", b"GIF89a" + bytes(50), plain(11)[:-30]])
def test_what_is_no_photo_is_refused_with_a_sentence(client, content):
    answer = client.post("/api/answer", content=content)
    assert answer.status_code == 422
    assert re.fullmatch(r"The photo cannot be read: [^\n]+\.", answer.json()["detail"])


def test_a_form_is_refused_since_the_photo_itself_is_the_body(client):
    answer = client.post("/api/answer", files={"photo": ("a.png", plain(11))})
    assert answer.status_code == 415
    assert "the photo itself" in answer.json()["detail"]


def test_ten_clients_at_a_time_get_each_their_own_answers(address):
    def ask(client):
        answers = []
        for red in np.random.default_rng(client).permutation(np.arange(10, 41)):
            with urllib.request.urlopen(f"{address}api/answer?top=5", plain(int(red))) as answer:
                body = json.load(answer)
            answers.append((red, [(one["row"], one["distance"]) for one in body["results"]]))
        return answers

    with ThreadPoolExecutor(10) as pool:
        clients = list(pool.map(ask, range(10)))
    for red, results in (answer for answers in clients for answer in answers):
        reds = np.array([10, 12, 14, 20, 40])
        order = np.argsort(abs(reds - red), kind="stable")
        assert results == [(row, abs(reds[row] - red)) for row in order]


def test_the_api_is_described_without_another_machine(client):
    described = client.get("/api/openapi.json").json()
    assert "image/*" in described["paths"]["/api/answer"]["post"]["requestBody"]["content"]
    names = [file.name for file in resources.files("landmarks.asking.serving").joinpath("page").iterdir()]
    assert {"page.html", "page.js", "page.css", "api.html"} <= set(names)
    for name in names:
        links = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", client.get(f"/{name}").text)
        assert set(links) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("rerank=none", "rerank: 'none' is not allowed: there is no 'none'; allowed are one, dba,"),
        ("rerank=two%2Bdba", "rerank: 'two+dba' is not allowed: two votes on the final ranking"),
        ("rerank=aqe%2Baqe", "rerank: 'aqe+aqe' is not allowed: aqe stands there twice"),
        ("rerank=", "rerank: '' is not allowed: there is no ''"),
        ("distance=L9", "distance: 'L9': Input should be 'L1', 'L2' or 'L3'"),
        ("top=0", "top: '0': Input should be greater than or equal to 1"),
    ],
)
def test_a_value_that_is_not_allowed_is_a_sentence(client, asked, said):
    answer = client.get(f"/api/photos/0/answer?{asked}")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(said)
    assert "value error" not in answer.text.lower()
