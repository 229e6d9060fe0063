"""How many clients the server has at a time, and how long each may keep it waiting.

uvicorn ends a connection that is idle between two requests, and limits the size of a head. It has no limit on
the time that a head or the taking of an answer lasts, nor on sockets that say nothing, each an open file.
"""

import asyncio
import errno
import json
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from landmarks.asking.serving import uploads
from landmarks.asking.serving.guard import HEADERS
from landmarks.cores import CORES

try:
    import resource
except ImportError:  # Windows, which has no such limit on sockets
    resource = None  # type: ignore[assignment]

PLACES = 1000
"""Connections at a time, where as many files may be open."""
RESERVE = 64 + 2 * CORES
"""Files beside connections: those of photos that are read by some 40 threads and two for each core."""
HEAD_SECONDS = 10
ANSWER_SECONDS = 60
LOG_SECONDS = 10
KNOWN = 6

FULL = "The server has too many connections; ask again in a moment."

log = logging.getLogger(__name__)


def places() -> int:
    """How many connections there may be beside the files that are open and `RESERVE`.

    The limit on open files is raised to what `PLACES` take, where the system lets it be.
    """
    if sys.platform == "win32" or resource is None:
        return PLACES
    taken = RESERVE
    with suppress(OSError):  # which is not in every chroot
        taken += len(list(Path("/dev/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, most = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if allowed < taken + PLACES:
        raised = int(min(taken + PLACES, most))
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            allowed = raised
    return int(max(8, min(PLACES, allowed - taken)))


def refusal(status: int, reason: str) -> bytes:
    """A whole answer of HTTP, after which the connection ends."""
    body = json.dumps({"detail": reason}).encode()
    headers = {
        **HEADERS,
        "Content-Type": "application/json",
        "Content-Length": len(body),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {status} ", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


class Connection(H11Protocol):
    """One client, which may keep the server waiting for so long and no longer."""

    _since = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._turn()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Notice where a head is complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._turn()

    def on_response_complete(self) -> None:
        """Wait until the answer is taken, and for the next head."""
        self._turn()
        super().on_response_complete()

    def waited(self) -> float:
        """How much of the time for which it may be waited for has passed; 0 while the server works.

        Who was answered before counts as less: in a burst of connections that ask nothing, it stays.
        """
        if self.transport.is_closing():
            return 0
        answered = self.cycle is not None and self.cycle.response_complete
        return (self.loop.time() - self._since) / self._patience() / (KNOWN if answered else 1)

    def end(self, status: int, reason: str) -> None:
        """End the connection at once, with an answer if the client takes any."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
            return
        self.transport.write(refusal(status, reason))
        self.transport.close()

    def _asked(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _patience(self) -> float:
        """The seconds that what happens now may last: forever where it is the server that works."""
        if self.transport.get_write_buffer_size():
            return ANSWER_SECONDS
        if not self._asked():
            return HEAD_SECONDS
        return uploads.SECONDS if self.cycle.more_body else math.inf

    def _turn(self) -> None:
        self._since = self.loop.time()
        if self._timer:
            self._timer.cancel()
        seconds = self._patience()
        if self._asked() and self.cycle.more_body:  # `uploads.receive` keeps it; its refusal must be taken
            seconds = uploads.SECONDS + ANSWER_SECONDS
        self._timer = self.loop.call_later(seconds, self._expire) if seconds < math.inf else None

    def _expire(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        elif not self._asked():
            if self.conn.trailing_data[0]:
                self.end(408, f"The request did not arrive within {HEAD_SECONDS} seconds.")
            else:  # as of a browser that connects ahead
                self.transport.close()


class Listener(socket.socket):
    """A socket that listens for as many connections at a time as it has places, and never fails to accept.

    Where they are taken, the client goes that has used up the most of its time, or the new one is refused if
    the server works for all others.
    """

    def __init__(self, listening: socket.socket, most: int):
        family, kind, protocol = listening.family, listening.type, listening.proto
        super().__init__(family, kind, protocol, listening.detach())
        self.connections: Collection[Any] = ()
        self._most = most
        self._held: list[socket.socket] = []
        self._made_room = False
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, Any]:
        """As of a socket that does not block; asyncio asks again as long as someone is waiting."""
        if self._made_room:  # one at a time: who goes has gone by the next turn of the loop
            self._made_room = False
            raise BlockingIOError
        try:
            accepted, address = super().accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._refuse_by_spare()
                raise BlockingIOError from None
            raise
        self._held.append(accepted)
        if len(self._held) > self._most:
            self._held = [held for held in self._held if held.fileno() >= 0]
        if len(self._held) > self._most:
            log.warning("more than %d connections: those that keep the server waiting are ended", self._most)
            longest = max(self.connections, key=Connection.waited, default=None)
            if longest is None or not longest.waited():
                _refuse(accepted)
                raise BlockingIOError
            longest.end(503, FULL)
            self._made_room = True
        return accepted, address

    def _refuse_by_spare(self) -> None:
        """Refuse a client though no file can be opened; else asyncio would fail on it again and again."""
        log.warning("no more files can be opened: connections are refused")
        os.close(self._spare)
        try:
            with suppress(OSError):
                _refuse(super().accept()[0])
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Stop listening."""
        if self.fileno() >= 0:
            os.close(self._spare)
        super().close()


def _refuse(accepted: socket.socket) -> None:
    with accepted, suppress(OSError):
        accepted.setblocking(False)
        accepted.send(refusal(503, FULL))
        accepted.recv(1 << 16)  # closed with something unread, TCP would take the answer back


class Seldom(logging.Filter):
    """Lets a line of a kind pass once in `LOG_SECONDS`, with the number of those left out.

    Of a kind are lines from one place in the code, of one error.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[object, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is logged."""
        error, _, trace = record.exc_info or (None, None, None)
        while trace and trace.tb_next:
            trace = trace.tb_next
        kind = record.pathname, record.lineno, error, trace and (trace.tb_frame.f_code, trace.tb_lineno)
        last, left_out = self._kinds.get(kind, (-math.inf, 0))
        now = time.monotonic()
        if now - last < LOG_SECONDS:
            self._kinds[kind] = last, left_out + 1
            return False
        self._kinds[kind] = now, 0
        if left_out:
            record.msg = f"{str(record.msg).rstrip()} ({left_out} more such lines were left out)"
        return True


SELDOM = Seldom()
LOGGERS = (log, logging.getLogger("uvicorn.error"), logging.getLogger("asyncio"))
