"""What all requests and answers pass: a look at who asks, and the headers that keep a browser safe."""

from urllib.parse import urlsplit

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

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Add `HEADERS` to each answer, and refuse what is not addressed to one of `hosts` (None: any).

    Any web site can let its own name point to 127.0.0.1 and read what a server there answers (DNS
    rebinding), but the Host header then still has that name. It can also send a photo, if not read the
    answer; this is refused by what browsers say of where a request comes from.

    A connection ends with the answer if the body of the request was not received whole; else what the client
    goes on to send would be read and thrown away, for ever.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        receiving = asked.get("content-length", "0") != "0" or "transfer-encoding" in asked

        async def receive_guarded() -> Message:
            nonlocal receiving
            message = await receive()
            receiving = receiving and message.get("more_body", False)
            return message

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
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


def _from_elsewhere(asked: dict[str, str], host: str) -> bool:
    """Whether a browser says that a page of another origin asks, judged as by Go's `CrossOriginProtection`.

    Sec-Fetch-Site goes first, as a proxy may change the Host header; browsers leave it out where the server
    has no certificate and is not this machine. What is no browser sends neither.
    """
    if site := asked.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    return "origin" in asked and urlsplit(asked["origin"]).netloc.lower() != host.lower()


def _name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of IPv6."""
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() else host).strip("[]").lower()
