"""Clients that keep the server waiting, and those that go on though they are refused."""

import contextlib
import http.client
import json
import re
import socket
import threading
import time

import pytest

from landmarks.asking.serving import connections, uploads

from .conftest import open_index, plain, served

HEAD, BODY, ANSWER = 0.3, 0.4, 0.5
MB = 1 << 20
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
ENDLESS = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def impatient(plain_root):
    """The address of a server whose clients have a fraction of a second, and 1 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_SECONDS", HEAD)
        patch.setattr(connections, "ANSWER_SECONDS", ANSWER)
        patch.setattr(uploads, "SECONDS", BODY)
        patch.setattr(uploads, "MAX_BYTES", MB)
        with served(open_index(plain_root)) as address:
            yield address


def connect(address, *content):
    """A socket that is connected to the server, and has sent this."""
    sock = socket.create_connection(("127.0.0.1", int(address.rstrip("/").rpartition(":")[2])), timeout=10)
    for part in content:
        sock.sendall(part)
    return sock


def until_closed(sock):
    """All that the server sends until it ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(1 << 16):
            received += part
    return received


def statuses(received):
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)]


def detail(received):
    return json.loads(received.rpartition(b"\r\n\r\n")[2])["detail"]


def drip(sock, over):
    """Send a byte now and then."""
    with contextlib.suppress(OSError):
        while not over.wait(0.03):
            sock.send(b"a")


@pytest.mark.parametrize("dripping", [False, True])
@pytest.mark.parametrize(
    ("content", "answers", "seconds"),
    [
        pytest.param(GET[:12], [408], HEAD, id="line"),
        pytest.param(GET[:-2] + b"X-Slow: ", [408], HEAD, id="header"),
        pytest.param(GET + GET[:9], [200, 408], HEAD, id="second head"),
        pytest.param(POST + b"Content-Length: 999\r\n\r\n", [408], BODY, id="body"),
        pytest.param(POST + b"Content-Length: 999\r\n\r\n" + bytes(99), [408], BODY, id="half a body"),
        pytest.param(ENDLESS, [408], BODY, id="chunks"),
        pytest.param(ENDLESS + b"FFF\r\n", [408], BODY, id="half a chunk"),
    ],
)
def test_who_keeps_the_server_waiting_is_told_so_and_goes(impatient, content, answers, seconds, dripping):
    if dripping and content == ENDLESS:
        content += b"FFF\r\n"  # else what drips is no chunk, which is refused at once
    over = threading.Event()
    start = time.monotonic()
    with connect(impatient, content) as sock:
        dripper = threading.Thread(target=drip, args=[sock, over])
        if dripping:
            dripper.start()
        received = until_closed(sock)
        taken = time.monotonic() - start
        over.set()
        if dripping:
            dripper.join()
    assert statuses(received) == answers
    assert detail(received).endswith(f"did not arrive within {seconds} seconds.")
    assert seconds * 0.9 < taken < seconds + 2


@pytest.mark.parametrize("content", [b"", GET[:12], GET, GET + GET[:9]])
def test_nobody_waits_for_who_has_gone(impatient, monkeypatch, content):
    expired = []
    monkeypatch.setattr(connections.Connection, "_expire", lambda gone: expired.append(gone))
    with connect(impatient, content) as sock:
        if content.startswith(GET):
            assert statuses(sock.recv(1 << 16)) == [200]
    time.sleep(2 * HEAD)
    assert expired == []


def test_who_says_nothing_goes_without_a_word(impatient):
    start = time.monotonic()
    with connect(impatient) as sock:
        assert until_closed(sock) == b""
    assert HEAD * 0.9 < time.monotonic() - start < HEAD + 2


def test_who_does_not_take_the_answers_goes(impatient):
    start = time.monotonic()
    with connect(impatient) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(ConnectionError):
            sock.sendall(GET.replace(b"/healthz", b"/page.js") * 1_000_000)
    assert time.monotonic() - start < ANSWER + 5


def test_who_takes_the_answer_slowly_gets_all_of_it(impatient):
    with connect(
        impatient, GET.replace(b"/healthz", b"/page.js")[:-2] + b"Connection: close\r\n\r\n"
    ) as sock:
        received = b""
        while part := sock.recv(2048):
            received += part
            time.sleep(0.01)
    head, _, body = received.partition(b"\r\n\r\n")
    assert len(body) == int(re.search(rb"content-length: (\d+)", head)[1])


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST, 413),
        (b"POST /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n", 405),
        (b"PUT /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n", 404),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n", 200),
        (b"POST /api/answer?top=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n", 422),
        (b"POST /api/answer HTTP/1.1\r\nHost: evil.example\r\n", 421),
        (POST + b"Origin: http://evil.example\r\n", 403),
        (POST + b"Content-Type: text/plain\r\n", 415),
    ],
)
@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", f"Content-Length: {200 * MB}"])
def test_what_a_client_goes_on_to_send_is_not_taken(impatient, head, status, length):
    piece, sent = b"10000\r\n" + bytes(0x10000) + b"\r\n", 0
    with connect(impatient, head + length.encode() + b"\r\n\r\n") as sock:
        with contextlib.suppress(ConnectionError):
            while sent < 100 * MB:
                sock.sendall(piece)
                sent += len(piece)
        received = until_closed(sock)
    assert sent < 20 * MB  # of which all but one are buffers of the system
    assert statuses(received) == [status]
    assert b"connection: close\r\n" in received


with_a_body_that_nobody_wants = pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"POST /healthz", 405),
        (b"POST /api/answer?top=0", 422),
        (b"PUT /nowhere", 404),
        (b"GET /healthz", 200),
    ],
)


@pytest.mark.parametrize("kilobytes", [0, 5, 1000])
@with_a_body_that_nobody_wants
def test_a_short_body_that_nobody_wants_costs_no_connection(address, start, status, kilobytes):
    body = bytes(kilobytes << 10)
    head = start + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(address, head) as sock:
        time.sleep(0.05)
        for _ in range(2):
            sock.sendall(body + head)
        sock.sendall(body + GET[:-2] + b"Connection: close\r\n\r\n")
        assert statuses(until_closed(sock)) == [status] * 3 + [200]


@pytest.mark.parametrize("length", [1, 5000, 1 << 20])
@with_a_body_that_nobody_wants
def test_who_asks_before_sending_a_body_that_nobody_wants_is_not_told_to_send_it(
    address, start, status, length
):
    head = start + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n" % length
    with connect(address, head + b"Expect: 100-continue\r\n\r\n") as sock:
        assert statuses(until_closed(sock)) == [status]


def test_a_declared_length_is_judged_before_the_body_is_sent(impatient):
    with connect(impatient, POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (MB + 1)) as sock:
        received = until_closed(sock)
    assert statuses(received) == [413]
    assert detail(received) == "The photo has more than 1 MB."


def test_requests_one_after_the_other_and_at_once_are_answered_by_one_connection(address):
    photo = plain(11)
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(photo) + photo
    with connect(address, (GET + whole) * 10 + GET[:-2] + b"Connection: close\r\n\r\n") as sock:
        received = until_closed(sock)
    assert statuses(received) == [200] * 21
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"))
    connection.connect()
    kept = connection.sock
    for _ in range(3):
        connection.request("POST", "/api/answer", photo)
        assert json.load(connection.getresponse())["landmark"]
    assert connection.sock is kept
    connection.close()
