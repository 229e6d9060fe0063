"""What every answer passes: the headers that keep a browser safe, and a look at the Host header."""

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
    rebinding), but the Host header then still has that name.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if self.hosts is None or _name(host) in self.hosts:
            await self.app(scope, receive, send_guarded)
        else:
            names = ", ".join(sorted(self.hosts))
            refusal = JSONResponse({"detail": f"Host {host!r} is not this server, which is {names}."}, 421)
            await refusal(scope, receive, send_guarded)


def _name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of IPv6."""
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() else host).strip("[]").lower()
