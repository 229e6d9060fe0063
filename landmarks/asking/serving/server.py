"""The server of the web page and its JSON API: where it listens, and to whom."""

import asyncio
import contextlib
import io
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib import resources
from ipaddress import ip_address
from typing import Any, get_args

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image

from landmarks.asking.questions import Index
from landmarks.asking.serving import api
from landmarks.asking.serving.connections import LOGGERS, SELDOM, Connection, Listener, places
from landmarks.asking.serving.guard import HEADERS, LOOPBACK, Guard
from landmarks.asking.serving.service import Service
from landmarks.errors import InputError
from landmarks.params import Distance

PAGES = {"/": "page.html", "/api": "api.html"}
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def create_app(index: Index, hosts: frozenset[str] | None = LOOPBACK) -> FastAPI:
    """The page and its API on `index`, for requests addressed to one of `hosts` (None: any)."""
    app = FastAPI(
        title="Landmarks",
        description="Which landmark does a photo show, and which photos of the index are like it?",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,  # FastAPI's own load their code from another machine
        redoc_url=None,
        exception_handlers={RequestValidationError: _explain, Exception: _apologise},
    )
    app.state.service = Service(index)
    app.add_middleware(Guard, hosts=hosts)
    app.include_router(api.router)
    page = resources.files("landmarks.asking.serving") / "page"
    files = {file.name: file.read_bytes() for file in page.iterdir()}
    for path, name in {**{f"/{name}": name for name in files}, **PAGES}.items():
        app.add_route(path, _file(name, files[name]), include_in_schema=False)
    return app


def listen(host: str, port: int, most: int | None = None) -> Listener:
    """A socket that listens at `host` and `port`, 0 for any free one. Raises `InputError` if it cannot.

    `most`: connections at a time, by default as many as the limit on open files allows, but 1000 at most.
    """
    if not host.strip():  # as of a variable that is not set, and would mean all addresses
        raise InputError(
            f"--host: {host!r} is no address; 127.0.0.1 is for this machine alone, 0.0.0.0 for the network"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return Listener(socket.create_server((host, port), family=family), most or places())
    except OSError as error:
        raise InputError(
            f"{host}:{port}: cannot listen there ({error.strerror}); try another --port"
        ) from None


def hosts_of(listening: socket.socket, host: str) -> frozenset[str] | None:
    """The names that requests may be addressed to: on loopback those of this machine, else any (None)."""
    return LOOPBACK | {host.lower()} if ip_address(listening.getsockname()[0]).is_loopback else None


def ipv6_alone(listening: socket.socket) -> bool:
    """Whether the socket listens at all addresses, but to those who come by IPv6 alone."""
    return listening.family == socket.AF_INET6 and ip_address(listening.getsockname()[0]).is_unspecified


def create_server(index: Index, listening: Listener, hosts: frozenset[str] | None) -> uvicorn.Server:
    """The server of `index` to those who come to `listening`, for requests addressed to one of `hosts`."""
    config = uvicorn.Config(
        create_app(index, hosts),
        loop="asyncio",  # which accepts by `Listener.accept`, as uvloop does not
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    for logger in LOGGERS:
        logger.addFilter(SELDOM)
    server = uvicorn.Server(config)
    listening.connections = server.server_state.connections
    return server


def serve(index: Index, listening: Listener, hosts: frozenset[str] | None) -> None:
    """Serve `index` until interrupted, in a notebook too."""
    threading.Thread(target=_warm, args=[index], daemon=True).start()
    server = create_server(index, listening, hosts)
    with contextlib.suppress(KeyboardInterrupt):
        if not _in_a_loop():
            server.run(sockets=[listening])
            return
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(server.run, [listening])
            try:
                running.result()
            finally:
                server.should_exit = True


def _in_a_loop() -> bool:
    """Whether an event loop runs here already, as in the cells of a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _warm(index: Index) -> None:
    """Load the model and compile the search, which take seconds, before the first photo comes."""
    for distance in get_args(Distance):
        index.answer(index.features[:1], distance)
    with io.BytesIO() as file:
        Image.effect_noise((64, 64), 64).save(file, "PNG")
        index.describe([file.getvalue()])


def _file(name: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}

    async def respond(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=TYPES[name.rpartition(".")[2]], headers=headers)

    return respond


async def _explain(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": " ".join(map(_reason, error.errors()))}, 422)


def _reason(detail: dict[str, Any]) -> str:
    name, message = detail["loc"][-1], detail["msg"]
    if detail["type"] == "value_error":  # one of ours, which says what was seen
        return f"{name}: {message.removeprefix('Value error, ')}."
    return f"{name}: {detail.get('input')!r}: {message}."


async def _apologise(_request: Request, error: Exception) -> JSONResponse:
    """For what should not happen; it is raised again, so that the log has it."""
    return JSONResponse({"detail": f"The server failed ({type(error).__name__})."}, 500, HEADERS)
