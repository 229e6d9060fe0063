"""Photos that are uploaded: received into memory, never on disk, and refused before they are decoded."""

import asyncio
import ctypes
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from landmarks.photos import images

MAX_BYTES = 20 << 20
MAX_PIXELS = 50_000_000
MAX_HELD = 25 * MAX_BYTES
SECONDS = 60
TYPES = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")  # the last as curl has it
REMEMBERED = 256


class Room:
    """The memory that all uploads together may take until they are answered. Belongs to one event loop."""

    def __init__(self) -> None:
        self._held = 0
        self._receiving: dict[asyncio.Timeout, bytearray] = {}  # the longest first

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytes]:
        """The photo that is the body of `request`. Raises `HTTPException` as soon as it is too large.

        If there is no room for it, the photo goes that has been arriving for the longest.
        """
        _check_type(request.headers.get("content-type", ""))
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BYTES:
            raise _too_large()
        body, photo = bytearray(), b""
        try:
            await self._fill(body, request)
            photo = bytes(body)
            body.clear()
            yield photo
        finally:
            self._held -= len(body) + len(photo)

    async def _fill(self, body: bytearray, request: Request) -> None:
        try:
            async with asyncio.timeout(SECONDS) as limit:
                self._receiving[limit] = body
                async for chunk in request.stream():
                    if len(body) + len(chunk) > MAX_BYTES:
                        raise _too_large()
                    body += chunk
                    self._held += len(chunk)
                    if self._held > MAX_HELD and limit in self._receiving:
                        self._make_room()
                    if limit not in self._receiving:  # and no turn of the loop has ended it yet
                        raise TimeoutError
        except TimeoutError:
            if limit.when() == 0:
                raise HTTPException(503, "The server has no room for more photos; send it again.") from None
            raise HTTPException(408, f"The photo did not arrive within {SECONDS} seconds.") from None
        except ClientDisconnect:
            raise HTTPException(400, "The connection broke off.") from None
        finally:
            self._receiving.pop(limit, None)

    def _make_room(self) -> None:
        limit = next(iter(self._receiving))
        body = self._receiving.pop(limit)
        self._held -= len(body)
        body.clear()
        limit.reschedule(0)


def _check_type(kind: str) -> None:
    """Raise `HTTPException` where the Content-Type says that the body is no photo."""
    if kind.lower().startswith("multipart/"):
        raise HTTPException(415, "The body must be the photo itself, not a form (curl --data-binary @photo).")
    if kind and not kind.lower().startswith(TYPES):
        raise HTTPException(
            415, f"The body must be the photo itself, of the type image/* or of none, not {kind[:80]!r}."
        )


def _too_large() -> HTTPException:
    return HTTPException(413, f"The photo has more than {MAX_BYTES >> 20} MB.")


def check(photo: bytes) -> None:
    """Raise `HTTPException` where the header of `photo` shows no photo, or one with too many pixels."""
    try:
        width, height = images.dimensions(photo)
    except ValueError as error:
        raise HTTPException(422, f"The photo cannot be read: {error}.") from None
    if width * height > MAX_PIXELS:
        raise HTTPException(
            413, f"The photo has {width} x {height} pixels, more than {MAX_PIXELS // 10**6} million."
        )


def release() -> None:
    """Give the memory of photos that are done with back to the system; glibc keeps it for more of them."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:  # not with musl
        trim(0)


class Descriptors:
    """The descriptors of the last photos, so that asking by another distance needs no describing."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def get(self, digest: bytes) -> NDArray[np.float32] | None:
        """The descriptor (1, D) of the photo with this digest, if it is remembered."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
        return self._kept.get(digest)

    def keep(self, digest: bytes, descriptor: NDArray[np.float32]) -> None:
        """Remember a descriptor, and forget the one that was asked for the longest ago."""
        self._kept[digest] = descriptor
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
