"""Clients that take all places of the server, or its files, and what it says of that in its log."""

import contextlib
import errno
import logging
import os
import resource
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from landmarks.asking.serving import connections, server
from landmarks.asking.serving.guard import HEADERS

from .conftest import open_index, plain, served
from .test_connections import ENDLESS, GET, POST, connect, detail, statuses, until_closed


def answered(sock):
    """Whether the one answer that comes is that of /healthz."""
    received = b""
    while not received.endswith(b"}"):
        received += sock.recv(1 << 16)
    return received.endswith(b'{"status":"ok"}')


def healthy(address):
    """The status of /healthz, and the seconds that it took."""
    start = time.monotonic()
    with connect(address, GET[:-2] + b"Connection: close\r\n\r\n") as sock:
        return statuses(until_closed(sock)), time.monotonic() - start


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param([], b" 503 ", id="nothing"),
        pytest.param([GET[:20]], b" 503 ", id="half a head"),
        pytest.param([POST + b"Content-Length: 999\r\n\r\n"], b" 503 ", id="a head"),
        pytest.param([ENDLESS + b"3\r\nabc\r\n"], b" 503 ", id="half a body"),
        pytest.param([GET], b" 503 ", id="kept alive"),
    ],
)
def test_who_waits_makes_room_for_who_asks(plain_root, content, told):
    with served(open_index(plain_root), most=4) as address, contextlib.ExitStack() as stack:
        crowd = []
        for _ in range(3):
            for _ in range(10):
                crowd.append(stack.enter_context(connect(address, *content)))
                if content == [GET]:
                    assert answered(crowd[-1])
            status, seconds = healthy(address)
            assert status == [200]
            assert seconds < 2
        time.sleep(0.1)
        ended = 0
        for sock in crowd:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                received = until_closed(sock)
                assert told in received or received == b""
                ended += 1
        assert len(crowd) - 4 <= ended < len(crowd)


def test_the_oldest_goes_first_and_who_is_answered_stays(plain_root):
    index = open_index(plain_root)
    go_on, answer = threading.Event(), index.answer
    index.answer = lambda *arguments: go_on.wait(10) and answer(*arguments)
    ask = GET.replace(b"/healthz", b"/api/photos/0/answer")[:-2] + b"Connection: close\r\n\r\n"
    with served(index, most=3) as address, contextlib.ExitStack() as stack:
        asking = stack.enter_context(connect(address, ask))
        first = stack.enter_context(connect(address, GET[:9]))
        time.sleep(0.1)
        second = stack.enter_context(connect(address, GET[:9]))
        third = stack.enter_context(connect(address, ask))
        assert statuses(until_closed(first)) == [503]
        fourth = stack.enter_context(connect(address, ask))
        assert detail(until_closed(second)) == connections.FULL
        time.sleep(0.1)
        # The server works for all three, so the next is refused at once, though it has asked already.
        with connect(address, GET) as fifth:
            refusal = until_closed(fifth)
        assert statuses(refusal) == [503]
        assert all(f"{name}: {value}\r\n".encode() in refusal for name, value in HEADERS.items())
        go_on.set()
        assert [statuses(until_closed(one)) for one in (asking, third, fourth)] == [[200]] * 3
        assert healthy(address)[0] == [200]


def test_who_was_answered_before_goes_after_those_who_came_later_and_asked_nothing(plain_root):
    with served(open_index(plain_root), most=4) as address, contextlib.ExitStack() as stack:
        known = stack.enter_context(connect(address, GET))
        for _ in range(3):
            assert answered(known)
            for _ in range(2):
                time.sleep(0.1)
                for _ in range(3):
                    stack.enter_context(connect(address))
            known.sendall(GET)
        assert answered(known)


def test_a_photo_that_arrives_slowly_stays_longer_than_who_asks_nothing(plain_root):
    photo = plain(11)
    with served(open_index(plain_root), most=4) as address, contextlib.ExitStack() as stack:
        sending = stack.enter_context(connect(address, POST + b"Content-Length: %d\r\n\r\n" % len(photo)))
        for byte in range(3):
            sending.sendall(photo[byte : byte + 1])
            for _ in range(3):
                time.sleep(0.03)
                stack.enter_context(connect(address))
        sending.sendall(photo[3:])
        assert sending.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_who_does_not_take_the_answers_makes_room_at_once(plain_root):
    many = GET.replace(b"/healthz", b"/page.js") * 1000
    with served(open_index(plain_root), most=1) as address, connect(address, many) as slow:
        for _ in range(100):  # until the system holds no more of the answers
            time.sleep(0.1)
            if healthy(address)[0] == [200]:
                break
        assert healthy(address)[0] == [200]
        assert b" 503 " not in until_closed(slow)  # which would come after half an answer


def test_two_hundred_at_a_time_are_answered_though_there_are_ten_places(plain_root):
    with served(open_index(plain_root), most=10) as address, ThreadPoolExecutor(50) as pool:
        # In a crowd that asks at once, some may be ended who have not got to ask yet; none may wait.
        answers = list(pool.map(lambda _: healthy(address), range(200)))
        assert all(status in ([200], [503], []) for status, _ in answers)
        assert max(seconds for _, seconds in answers) < 5
        assert healthy(address)[0] == [200]


def test_uvloop_which_does_not_accept_by_the_listener_is_not_taken_where_it_is_installed(
    plain_root, monkeypatch
):
    monkeypatch.setitem(sys.modules, "uvloop", ModuleType("uvloop"))  # of which nothing can be had
    with served(open_index(plain_root)) as address:
        assert healthy(address)[0] == [200]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_client_is_refused_though_no_file_can_be_opened(monkeypatch, number):
    accept, failing = socket.socket.accept, [True]

    def fail_once(self):
        if failing.pop() if failing else False:
            raise OSError(number, os.strerror(number))
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", fail_once)
    with server.listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as refused:
            refused.sendall(GET)
            with pytest.raises(BlockingIOError):  # by which asyncio goes on
                listening.accept()
            assert statuses(until_closed(refused)) == [503]
        with socket.create_connection(("127.0.0.1", port)) as accepted:
            one, _ = listening.accept()
            with one:
                one.sendall(b"hello")
                assert accepted.recv(5) == b"hello"
        assert not failing


def test_what_else_goes_wrong_in_accepting_is_told(monkeypatch):
    def fail(_):
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(socket.socket, "accept", fail)
    with server.listen("127.0.0.1", 0) as listening, pytest.raises(OSError, match="not permitted"):
        listening.accept()


@pytest.mark.parametrize(
    ("soft", "hard", "free", "raised"),
    [
        (20_000, 20_000, connections.PLACES, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, connections.PLACES, None),
        (256, resource.RLIM_INFINITY, connections.PLACES, connections.PLACES + connections.RESERVE),
        (256, 20_000, connections.PLACES, connections.PLACES + connections.RESERVE),
        (256, 600, 600 - connections.RESERVE, 600),
        (256, 256, 256 - connections.RESERVE, 256),
        (40, 40, 8, 40),
    ],
)
def test_places_follow_from_the_files_that_may_be_open(monkeypatch, soft, hard, free, raised):
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    monkeypatch.setattr(connections, "RESERVE", connections.RESERVE - len([*Path("/dev/fd").iterdir()]))
    assert connections.places() == pytest.approx(free, abs=1)  # the folder that is listed is open, too
    assert [limits[0] for limits in set_to] == ([pytest.approx(raised, abs=1)] if raised else [])


def test_a_system_that_refuses_to_raise_the_limit_is_taken_as_it_is(monkeypatch):
    def refuse(*_):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (400, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert 8 <= connections.places() <= 400 - connections.RESERVE


@pytest.fixture
def logged(monkeypatch):
    """The lines that pass the filter, and a clock for it."""
    lines, now = [], [0.0]
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: now[0]))
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.Logger("some")
    logger.addHandler(handler)
    logger.addFilter(connections.Seldom())
    return logger, lines, now


def test_one_line_of_a_kind_is_logged_in_ten_seconds(logged):
    logger, lines, now = logged

    def fail(error, place):
        try:
            if place == "here":
                raise error
            raise error  # at another line
        except Exception as one:
            logger.error("failed", exc_info=one)

    for second in range(25):
        now[0] = float(second)
        for number in range(100):
            logger.warning("refused %d", number)
        logger.warning("100 % full")
        for place in ("here", "there"):
            fail(ValueError("x"), place)
            fail(KeyError("x"), place)
    assert [line for line in lines if line.startswith("refused")] == [
        "refused 0",
        "refused 0 (999 more such lines were left out)",
        "refused 0 (999 more such lines were left out)",
    ]
    assert [line for line in lines if line.startswith("100 %")] == [
        "100 % full",
        *["100 % full (9 more such lines were left out)"] * 2,
    ]
    assert sum(line.startswith("failed") for line in lines) == 4 * 3


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\0\1\2\r\n\r\n", "Invalid HTTP request received."),
        (b"GET / HTTP/1.1\r\n\r\n", "Invalid HTTP request received."),  # without a host
        (GET[:-2] + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n", "Unsupported upgrade request."),
        (GET[:-2] + b"X: " + b"x" * (1 << 18) + b"\r\n\r\n", "Invalid HTTP request received."),
    ],
)
def test_a_hundred_bad_requests_are_one_line_of_the_log(plain_root, monkeypatch, content, line):
    monkeypatch.setattr(connections.SELDOM, "_kinds", {})
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("uvicorn.error")
    with served(open_index(plain_root)) as address:
        logger.addHandler(handler)
        try:
            for _ in range(100):
                with connect(address) as sock:
                    with contextlib.suppress(ConnectionError):
                        sock.sendall(content)
                    sock.recv(100)
        finally:
            logger.removeHandler(handler)
    assert [one for one in lines if one == line] == [line]
    assert len(lines) <= 2
