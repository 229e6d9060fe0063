"""What all requests and answers pass: a look at who asks, and the headers that keep a browser safe."""

import asyncio
from contextlib import suppress

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

SHORT = 1 << 20
"""Bytes of a body that is received though it is refused."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Add `HEADERS` to each answer, and refuse what is not addressed to one of `hosts` (None: any).

    Any web site can let its own name point to 127.0.0.1 and read what a server there answers (DNS
    rebinding), but the Host header then still has that name. It can also send a photo, if not read the
    answer; this is refused by what browsers say of where a request comes from.

    A connection ends with the answer if the body of the request was not received whole; else uvicorn would
    read and throw away what the client goes on to send, for ever. A short body is received first: TCP takes
    an answer back where the connection ends with something unread.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        length = asked.get("content-length", "0")
        receiving = length != "0" or "transfer-encoding" in asked
        untouched = receiving and "expect" not in asked and length.isdecimal() and int(length) <= SHORT

        async def receive_guarded() -> Message:
            nonlocal receiving, untouched
            untouched = False
            message = await receive()
            receiving = receiving and message.get("more_body", False)
            return message

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                if untouched:
                    await _receive_short(receive_guarded)
                if receiving:
                    headers.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        host = asked.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            names = ", ".join(sorted(self.hosts))
            refusal = JSONResponse({"detail": f"Host {host!r} is not this server, which is {names}."}, 421)
            await refusal(scope, receive, send_guarded)
        elif scope["method"] not in ("GET", "HEAD") and _from_elsewhere(asked, host):
            refusal = JSONResponse({"detail": "The request comes from a page of another server."}, 403)
            await refusal(scope, receive, send_guarded)
        else:
            await self.app(scope, receive_guarded, send_guarded)


async def _receive_short(receive: Receive) -> None:
    """Receive a body that nobody wants, if it comes within a second and is `SHORT`."""
    received = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while received < SHORT and (message := await receive()).get("more_body"):
                received += len(message["body"])


def _from_elsewhere(asked: dict[str, str], host: str) -> bool:
    """Whether a browser says that a page of another origin asks, judged as by Go's `CrossOriginProtection`.

    Sec-Fetch-Site goes first, as a proxy may change the Host header; browsers leave it out where the server
    has no certificate and is not this machine. What is no browser sends neither.
    """
    if site := asked.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    return "origin" in asked and asked["origin"].partition("://")[2].lower() != host.lower()


def _name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of IPv6."""
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() else host).strip("[]").lower()
