"""Photos that are uploaded: received into memory, never on disk, and refused before they are decoded."""

import asyncio
import ctypes
from collections import OrderedDict

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from landmarks.photos import images

MAX_BYTES = 20 << 20
MAX_PIXELS = 50_000_000
SECONDS = 60
REMEMBERED = 256


async def receive(request: Request) -> bytes:
    """The photo that is the body of `request`. Raises `HTTPException` as soon as it is too large."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, "The body must be the photo itself, not a form (curl --data-binary @photo).")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                if len(body) + len(chunk) > MAX_BYTES:
                    raise _too_large()
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"The photo did not arrive within {SECONDS} seconds.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The connection broke off.") from None
    return bytes(body)


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
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:  # not on macOS, nor with musl
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
