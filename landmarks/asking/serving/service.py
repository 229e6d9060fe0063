"""What the API serves: the index, the evaluation beside it and their pictures, to many clients at a time."""

import hashlib
import io
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import HTTPException
from numpy.typing import NDArray
from PIL import Image

from landmarks.asking import questions
from landmarks.asking.questions import Index
from landmarks.asking.serving import uploads
from landmarks.cores import CORES
from landmarks.errors import InputError
from landmarks.params import Distance, Rerank
from landmarks.photos import images
from landmarks.photos.catalog import Photo
from landmarks.scoring import reports

THUMBNAIL, LARGE = 320, 1600  # pixels of the longer side

Floats = NDArray[np.float32]


class Service:
    """An index and the evaluation of its repository. Its coroutines belong to one event loop."""

    def __init__(self, index: Index):
        self.index = index
        self.reports = index.root / "reports"
        self.counts = Counter(photo.class_image for photo in index.photos)
        self.room = uploads.Room()
        self._descriptors = uploads.Descriptors()
        # More at a time would not be quicker, but hold more photos and distances in memory.
        self._asking, self._drawing = CapacityLimiter(CORES), CapacityLimiter(CORES)
        self._thumbnail = lru_cache(maxsize=2048)(_jpeg)
        self._read = lru_cache(maxsize=1)(lambda _modified: reports.read(self.reports))

    @property
    def evaluation(self) -> reports.Evaluation:
        """The evaluation as it stands in `reports/`."""
        try:
            return self._read(reports.modified(self.reports))
        except InputError as error:
            raise HTTPException(404, f"{error}.") from None

    def indexed(self, row: int) -> Photo:
        """The photo of the index with that number."""
        if row >= len(self.index.photos):
            raise HTTPException(
                404, f"The index has no photo {row}: it has {len(self.index.photos)}, from 0."
            )
        return self.index.photos[row]

    def evaluated(self, number: int) -> Photo:
        """The query of the evaluation with that number."""
        queries = self.evaluation.queries
        if number >= len(queries):
            raise HTTPException(404, f"The evaluation has no query {number}: it has {len(queries)}, from 0.")
        return queries[number].photo

    async def describe(self, photo: bytes) -> Floats:
        """The descriptor (1, D) of a photo, perhaps remembered."""
        digest = hashlib.sha256(photo).digest()
        descriptor = self._descriptors.get(digest)
        if descriptor is None:
            try:
                descriptor = await to_thread.run_sync(self._describe, photo, limiter=self._asking)
            except InputError as error:
                reason = str(error).removeprefix("photo: ")
                raise HTTPException(422, f"The photo cannot be read: {reason}.") from None
            self._descriptors.keep(digest, descriptor)
        return descriptor

    def _describe(self, photo: bytes) -> Floats:
        try:
            return self.index.describe([photo])
        finally:
            uploads.release()

    async def answer(
        self,
        descriptor: Floats,
        photo: bytes | None,
        known: Photo | None,
        distance: Distance,
        rerank: Rerank,
        top: int,
    ) -> questions.Answer:
        """The answer of the index to a `photo` with a descriptor (1, D), never the photo `known` itself."""
        paths = [known.image_path if known else None]
        photos = [photo] if photo else None
        try:
            answers = await to_thread.run_sync(
                self.index.answer, descriptor, distance, rerank, top, paths, photos, limiter=self._asking
            )
        except InputError as error:
            raise HTTPException(422, f"{error}.") from None
        return answers[0]

    async def content(self, photo: Photo) -> bytes:
        """The file of a photo that the pipeline knows."""
        try:
            return await to_thread.run_sync((self.index.root / photo.image_path).read_bytes)
        except OSError:
            raise _gone(photo) from None

    def tag(self, photo: Photo, side: int) -> str:
        """The entity tag (RFC 9110, 8.8.3) of `picture`: changes with the file."""
        path = self.index.root / photo.image_path
        try:
            stat = path.stat()
        except OSError:
            raise _gone(photo) from None
        name = f"{path} {stat.st_mtime_ns} {stat.st_size} {side}"
        return f'"{hashlib.sha256(name.encode()).hexdigest()[:32]}"'

    async def picture(self, photo: Photo, side: int, tag: str) -> bytes:
        """A photo as a JPEG of at most `side` pixels; thumbnails are kept, some 30 MB of them."""
        draw = self._thumbnail if side == THUMBNAIL else _jpeg
        path = self.index.root / photo.image_path
        try:
            return await to_thread.run_sync(draw, path, side, tag, limiter=self._drawing)
        except InputError as error:
            raise HTTPException(404, f"{error}.") from None


def _jpeg(path: Path, side: int, _tag: str) -> bytes:
    photo = images.read(path, at_least=side)
    photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    with io.BytesIO() as file:
        photo.save(file, "JPEG", quality=85, optimize=True)
        return file.getvalue()


def _gone(photo: Photo) -> HTTPException:
    return HTTPException(404, f"{photo.image_path} is gone.")
