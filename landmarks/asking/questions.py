"""Questions to what the pipeline built: which landmark a photo shows, and which photos are like it."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from landmarks import files, params
from landmarks.describing import describers
from landmarks.describing.describers import Describer
from landmarks.errors import InputError
from landmarks.params import Distance, Params, Rerank
from landmarks.photos import images
from landmarks.photos.catalog import Photo, rows_by_path
from landmarks.photos.images import Source
from landmarks.reranking.reranker import Reranker
from landmarks.searching import features, rankings
from landmarks.searching.features import Store
from landmarks.searching.rankings import NO_ROW, QUERIES_AT_ONCE, Block

MODEL = Path("models/model.safetensors")
FEATURES = Path("features/index.h5")


class Result(NamedTuple):
    """A photo of the index that answers a query."""

    rank: int
    """From 1."""
    row: int
    """Of the index."""
    photo: Photo
    distance: float
    """Infinite if one of the two photos has no keypoints (VLAD)."""


class Answer(NamedTuple):
    """What the index knows of a photo."""

    landmark: str | None
    """None if the photo resembles no landmark: too far from all, or nothing votes."""
    votes: dict[str, int]
    """Of the nearest `rerank_options.vote_depth` photos: most votes first, equal ones by the alphabet."""
    nearest: float
    """The distance of the nearest photo; infinite if there is none."""
    results: list[Result]

    @property
    def told(self) -> str:
        """The landmark, for people."""
        return self.landmark or "resembles no landmark"

    def as_json(self) -> dict[str, Any]:
        """The answer as JSON takes it; an infinite distance, which JSON lacks, is None."""
        return {
            "landmark": self.landmark,
            "votes": self.votes,
            "nearest": finite(self.nearest),
            "results": [
                {
                    "rank": result.rank,
                    "row": result.row,
                    "image_path": result.photo.image_path,
                    "class_image": result.photo.class_image,
                    "distance": finite(result.distance),
                }
                for result in self.results
            ],
        }


def finite(distance: float) -> float | None:
    """`distance` as JSON takes it: None if it is infinite."""
    return distance if np.isfinite(distance) else None


@dataclass(eq=False)
class Index:
    """The photos that are searched, their descriptors, and the model that made these.

    Any number of threads may ask at the same time.
    """

    root: Path
    """The root of the repository."""
    params: Params
    features: NDArray[np.float32]
    """(N, D), in memory."""
    photos: list[Photo]
    attributes: dict[str, Any]
    """Of the feature store."""
    _describing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, root: Path = Path()) -> Self:
        """Open what `dvc repro` left in the repository at `root`.

        Raises `InputError` if a file is missing, or the index was not described by the model.
        """
        options = params.load(root / params.PATH)
        with features.opened(root / FEATURES) as store:
            index = cls(root, options, store.features[:], store.photos, store.attributes)
        described_by = index.attributes["model_sha256"]
        try:
            sha256 = files.sha256(root / MODEL)
        except OSError as error:
            raise files.unreadable(root / MODEL, error) from None
        if sha256 != described_by:
            raise InputError(
                f"{root / FEATURES}: made by another model (sha256 {described_by[:12]}...) than "
                f"{root / MODEL} ({sha256[:12]}...); run `dvc repro` again"
            )
        return index

    @cached_property
    def describer(self) -> Describer:
        """The model, read when it is first needed."""
        return describers.read(self.root / MODEL, **self.params.extract.execution())

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each photo, by its path."""
        return rows_by_path(self.photos)

    @cached_property
    def _store(self) -> Store:
        return Store(self.features, self.photos, self.attributes)

    @property
    def _memory(self) -> int:
        return self.params.retrieve.memory << 20

    @cached_property
    def _reranker(self) -> Callable[[Rerank, Distance], Reranker]:
        """Rerankers, the last few of which are kept, since some methods prepare the index first."""
        options = self.params.rerank_options
        return lru_cache(maxsize=8)(
            lambda chain, distance: Reranker(
                chain, self._store, distance, options, self.root, memory=self._memory
            )
        )

    def path_of(self, photo: Path) -> str | None:
        """The path of the file `photo` as the index has it, None if it is not in the index."""
        for file, root in ((photo, self.root), (photo.resolve(), self.root.resolve())):
            path = Path(os.path.relpath(file, root)).as_posix()
            if path in self.row_of:
                return path
        return None

    def describe(self, photos: Sequence[Source]) -> NDArray[np.float32]:
        """The descriptors of `photos`: float32 (Q, D). Raises `InputError` if one does not decode."""
        with self._describing:
            blocks = list(self.describer.describe(photos, self.params.extract.batch_size))
        return np.concatenate([np.empty((0, self.features.shape[1]), np.float32), *blocks])

    def answer(
        self,
        descriptors: NDArray[np.float32],
        distance: Distance | None = None,
        rerank: Rerank | None = None,
        top: int = 5,
        paths: Sequence[str | None] | None = None,
        photos: Sequence[Source] | None = None,
    ) -> list[Answer]:
        """The answers to `descriptors` (Q, D), each with at most `top` results, as the pipeline gives them.

        `distance` and `rerank` are by default those of `params.yaml`. `paths`: the path of each query from
        the root of the repository, None for one outside it; a photo is never its own result. `photos`:
        the queries themselves, which `geometric` looks at. Raises `InputError` if `rerank` is not allowed.
        """
        paths = paths or [None] * len(descriptors)
        distance, rerank = distance or self.params.distance, rerank or self.params.rerank
        reranker = self._reranker(rerank, distance)
        if "geometric" in rerank and not photos and None in paths:
            raise InputError("rerank: geometric compares photos, and only descriptors were given")
        queries = [_from_anywhere(photo) for photo in photos or [b""] * len(paths)]
        sources = [Path(path) if path else photo for path, photo in zip(paths, queries, strict=True)]
        own = rankings.own_rows([path or "" for path in paths], self.row_of)
        depth = rankings.ranking_depth(len(self.photos), self.params.retrieve.depth)
        if rerank == "one":  # which needs no more of the ranking than is shown or votes
            depth = min(depth, max(top, self.params.rerank_options.vote_depth))
        together = rankings.at_once(Reranker.bytes_a_result * depth, self._memory, QUERIES_AT_ONCE)
        answers: list[Answer] = []
        for start in range(0, len(descriptors), together):
            part = slice(start, start + together)
            retrieved = rankings.nearest(
                descriptors[part], own[part], self.features, distance, depth, self._store.zeros_last
            )
            answers.extend(self._answers(reranker, sources[part], descriptors[part], retrieved, top))
        return answers

    def answer_each(
        self,
        photos: Sequence[Path],
        distance: Distance | None = None,
        rerank: Rerank | None = None,
        top: int = 5,
    ) -> Iterator[tuple[Path, Answer | InputError]]:
        """Each of the files `photos` with its `answer`, or with the reason why it does not decode.

        They are described in batches of `extract.batch_size`, each when its first answer is asked for.
        """
        size = self.params.extract.batch_size
        for batch in (photos[start : start + size] for start in range(0, len(photos), size)):
            errors: dict[int, InputError] = {}
            whole = batch
            try:
                descriptors = self.describe(batch)
            except InputError:
                errors = {place: error for place, photo in enumerate(batch) if (error := _unreadable(photo))}
                whole = [photo for place, photo in enumerate(batch) if place not in errors]
                descriptors = self.describe(whole)
            known = [self.path_of(photo) for photo in whole]
            answers = iter(self.answer(descriptors, distance, rerank, top, known, whole))
            for place, photo in enumerate(batch):
                yield photo, errors.get(place) or next(answers)

    def _answers(
        self,
        reranker: Reranker,
        photos: Sequence[Source],
        descriptors: NDArray[np.float32],
        retrieved: Block,
        top: int,
    ) -> Iterator[Answer]:
        block, votes = reranker.rerank(photos, descriptors, retrieved)
        limit = np.inf if self.params.evaluate.reject_above is None else self.params.evaluate.reject_above
        for query, winner in enumerate(reranker.voted(votes)):
            nearest = float(block.distances[query].min())
            results = zip(block.rows[query, :top].tolist(), block.distances[query].tolist(), strict=False)
            order = np.argsort(-votes[query], kind="stable")
            yield Answer(
                winner if winner and nearest <= limit else None,
                {reranker.classes[place]: int(votes[query, place]) for place in order if votes[query, place]},
                nearest,
                [
                    Result(rank, row, self.photos[row], far)
                    for rank, (row, far) in enumerate(results, 1)
                    if row != NO_ROW
                ],
            )


def _from_anywhere(photo: Source) -> Source:
    return photo.absolute() if isinstance(photo, Path) else photo


def _unreadable(photo: Path) -> InputError | None:
    try:
        images.read(photo)
    except InputError as error:
        return error
    return None
