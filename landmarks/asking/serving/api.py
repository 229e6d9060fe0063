"""The routes of the JSON API. Photos are named by number, so no request can name a file."""

import math
import time
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as InPath
from numpy.typing import NDArray

from landmarks.asking.questions import finite
from landmarks.asking.serving import schemas, uploads
from landmarks.asking.serving.service import LARGE, THUMBNAIL, Service
from landmarks.chain import METHODS
from landmarks.params import Distance, Rerank
from landmarks.photos import images
from landmarks.photos.catalog import Photo

# What is said of a method beside its name; one that is not here is shown by its name alone.
TITLES = {
    "L1": "Manhattan",
    "L2": "Euclidean",
    "L3": "cosine",
    "one": "as retrieved",
    "dba": "index photos averaged with their neighbours",
    "aqe": "asked again with the mean of the first results",
    "alpha_qe": "asked again with a weighted mean of the first results",
    "k_reciprocal": "by neighbours in common",
    "diffusion": "by random walks among neighbours",
    "geometric": "by matching keypoints",
    "two": "voted landmark first",
}

router = APIRouter(responses={"4XX": {"model": schemas.Problem}})


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


class _How:
    """How to search, with the values of params.yaml where the request has none."""

    def __init__(
        self,
        service: Annotated[Service, Depends(_service)],
        distance: Annotated[Distance | None, Query(description="By default that of params.yaml.")] = None,
        rerank: Annotated[Rerank | None, Query(description="By default that of params.yaml.")] = None,
        top: Annotated[int, Query(ge=1, le=200, description="How many results at most.")] = 12,
    ):
        self.distance: Distance = distance or service.index.params.distance
        self.rerank: Rerank = rerank or service.index.params.rerank
        self.top = top


Serving = Annotated[Service, Depends(_service)]
How = Annotated[_How, Depends()]
Number = Annotated[int, InPath(ge=0)]
Offset = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("/healthz", tags=["health"])
def health() -> schemas.Health:
    """Whether the server answers."""
    return schemas.Health(status="ok")


@router.get("/api/options", tags=["index"])
def options(service: Serving) -> schemas.Options:
    """What can be asked, and of what."""
    index, params = service.index, service.index.params
    return schemas.Options(
        distances=_methods(get_args(Distance)),
        reranks=_methods(list(dict.fromkeys([*METHODS, params.rerank]))),
        distance=params.distance,
        rerank=params.rerank,
        vote_depth=params.rerank_options.vote_depth,
        reject_above=params.evaluate.reject_above,
        model=str(index.attributes.get("backbone", index.attributes["kind"])),
        photos=len(index.photos),
        landmarks=[
            schemas.Landmark(name=name, photos=service.counts[name]) for name in sorted(service.counts)
        ],
        max_bytes=uploads.MAX_BYTES,
        max_pixels=uploads.MAX_PIXELS,
        formats=list(images.FORMATS),
    )


@router.get("/api/photos", tags=["index"])
def photos(
    service: Serving, landmark: str | None = None, offset: Offset = 0, limit: Limit = 48
) -> schemas.IndexPhotos:
    """The photos of the index, or those of one landmark."""
    rows = [row for row, photo in enumerate(service.index.photos) if landmark in (None, photo.class_image)]
    return schemas.IndexPhotos(
        total=len(rows),
        photos=[
            schemas.IndexPhoto(row=row, **_named(service.index.photos[row]))
            for row in rows[offset : offset + limit]
        ],
    )


@router.get("/api/photos/{row}/thumbnail", tags=["index"], response_class=Response)
async def photo_thumbnail(service: Serving, request: Request, row: Number) -> Response:
    """A photo of the index, small."""
    return await _picture(service, request, service.indexed(row), THUMBNAIL)


@router.get("/api/photos/{row}/photo", tags=["index"], response_class=Response)
async def photo_large(service: Serving, request: Request, row: Number) -> Response:
    """A photo of the index, large."""
    return await _picture(service, request, service.indexed(row), LARGE)


@router.post(
    "/api/answer",
    tags=["answers"],
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The photo itself: at most 20 MB and 50 megapixels, within 60 seconds.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def answer_upload(service: Serving, request: Request, how: How) -> schemas.Answer:
    """The landmark that the photo in the body shows, and the photos of the index that are like it."""
    async with service.room.receive(request) as photo:
        uploads.check(photo)
        return await _described(service, photo, None, how)


@router.get("/api/photos/{row}/answer", tags=["answers"])
async def answer_photo(service: Serving, row: Number, how: How) -> schemas.Answer:
    """The other photos of the index that are like this one."""
    known = service.indexed(row)
    return await _answer(service, service.index.features[row : row + 1], 0, known, how)


@router.get("/api/evaluation/queries/{number}/answer", tags=["answers"])
async def answer_query(service: Serving, number: Number, how: How) -> schemas.Answer:
    """The photos of the index that are like this query of the evaluation."""
    known = service.evaluated(number)
    return await _described(service, await service.content(known), known, how)


@router.get("/api/evaluation", tags=["evaluation"])
def evaluation(service: Serving) -> schemas.Evaluation:
    """The figures of the evaluation."""
    report = service.evaluation
    return schemas.Evaluation(
        metrics=report.metrics,
        landmarks=[schemas.Score(**score._asdict()) for score in report.scores],
        confusion=[schemas.Confusion(**pair._asdict()) for pair in report.confusion],
        curve=report.curve,
    )


@router.get("/api/evaluation/queries", tags=["evaluation"])
def queries(
    service: Serving,
    actual: str | None = None,
    predicted: str | None = None,
    offset: Offset = 0,
    limit: Limit = 12,
) -> schemas.EvaluatedQueries:
    """The queries of the evaluation, worst first: all, those of a landmark, those taken for one."""
    scored = [
        (query.precision(service.counts), query)
        for query in service.evaluation.queries
        if actual in (None, query.photo.class_image) and predicted in (None, query.predicted)
    ]
    scored.sort(key=lambda pair: math.inf if pair[0] is None else pair[0])
    return schemas.EvaluatedQueries(
        total=len(scored),
        queries=[
            schemas.Evaluated(
                number=query.number,
                predicted=query.predicted,
                precision=precision,
                results=[
                    schemas.Found(
                        rank=found.rank,
                        distance=finite(found.distance),
                        row=service.index.row_of.get(found.photo.image_path),
                        **_named(found.photo),
                    )
                    for found in query.found
                ],
                **_named(query.photo),
            )
            for precision, query in scored[offset : offset + limit]
        ],
    )


@router.get("/api/evaluation/queries/{number}/thumbnail", tags=["evaluation"], response_class=Response)
async def query_thumbnail(service: Serving, request: Request, number: Number) -> Response:
    """A query of the evaluation, small."""
    return await _picture(service, request, service.evaluated(number), THUMBNAIL)


@router.get("/api/evaluation/queries/{number}/photo", tags=["evaluation"], response_class=Response)
async def query_large(service: Serving, request: Request, number: Number) -> Response:
    """A query of the evaluation, large."""
    return await _picture(service, request, service.evaluated(number), LARGE)


async def _picture(service: Service, request: Request, photo: Photo, side: int) -> Response:
    tag = service.tag(photo, side)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}  # a number may name another photo tomorrow
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(await service.picture(photo, side, tag), media_type="image/jpeg", headers=headers)


async def _described(service: Service, photo: bytes, known: Photo | None, how: _How) -> schemas.Answer:
    start = time.perf_counter()
    descriptor = await service.describe(photo)
    return await _answer(service, descriptor, time.perf_counter() - start, known, how, photo)


async def _answer(
    service: Service,
    descriptor: NDArray[np.float32],
    seconds: float,
    known: Photo | None,
    how: _How,
    photo: bytes | None = None,
) -> schemas.Answer:
    start = time.perf_counter()
    answer = await service.answer(descriptor, photo, known, how.distance, how.rerank, how.top)
    searching = time.perf_counter() - start
    return schemas.Answer(
        query=schemas.Known(**_named(known)) if known else None,
        landmark=answer.landmark,
        votes=[schemas.Vote(landmark=name, votes=votes) for name, votes in answer.votes.items()],
        nearest=finite(answer.nearest),
        distance=how.distance,
        rerank=how.rerank,
        results=[
            schemas.Result(
                rank=result.rank,
                row=result.row,
                distance=finite(result.distance),
                **_named(result.photo),
            )
            for result in answer.results
        ],
        milliseconds=schemas.Milliseconds(
            describe=round(1000 * seconds, 2), search=round(1000 * searching, 2)
        ),
    )


def _methods(names: Sequence[str]) -> list[schemas.Method]:
    return [schemas.Method(name=name, title=TITLES.get(name, "")) for name in names]


def _named(photo: Photo) -> dict[str, Any]:
    return {"path": photo.image_path, "landmark": photo.class_image}
