"""The evaluation as the pipeline left it in `reports/`, for people to look at."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from landmarks import tables
from landmarks.errors import DamagedError, InputError
from landmarks.photos.catalog import Photo

METRICS = Path("metrics.json")
CLASSES = Path("plots/classes.csv")
CONFUSION = Path("plots/confusion.csv")
CURVE = Path("plots/precision_recall.csv")
RESULTS = Path("results.csv")
HEADERS = {
    CLASSES: ("class", "queries", "accuracy", "average_precision"),
    CONFUSION: ("actual", "predicted"),
    CURVE: ("recall", "precision"),
    RESULTS: (
        *("query_path", "query_class", "predicted_class"),
        *("rank", "distance", "image_path", "class_image"),
    ),
}


class Score(NamedTuple):
    """How well the queries of a landmark were answered."""

    landmark: str
    queries: int
    accuracy: float
    average_precision: float | None
    """None if the index has no photo of the landmark."""


class Confusion(NamedTuple):
    """How many queries of a landmark were taken for which."""

    actual: str
    predicted: str
    queries: int


class Found(NamedTuple):
    """A result of a query of the evaluation."""

    rank: int
    distance: float
    photo: Photo


@dataclass(frozen=True)
class Query:
    """A query of the evaluation with its first results."""

    number: int
    """Its place in `results.csv`, from 0."""
    photo: Photo
    predicted: str
    found: list[Found]

    def precision(self, relevant: Mapping[str, int]) -> float | None:
        """Average precision over the results that are kept, None where nothing is relevant.

        The mean of the precision at the rank of each relevant photo, over as many as there can be:
        all of the landmark, `relevant`, or as many as there are results, whichever is less.
        """
        possible = min(relevant.get(self.photo.class_image, 0), len(self.found))
        hits = [found.rank for found in self.found if found.photo.class_image == self.photo.class_image]
        return sum(place / rank for place, rank in enumerate(hits, 1)) / possible if possible else None


@dataclass(frozen=True)
class Evaluation:
    """All that `evaluate` wrote."""

    metrics: dict[str, float]
    scores: list[Score]
    confusion: list[Confusion]
    curve: list[tuple[float, float]]
    """Recall and precision, mean over the queries."""
    queries: list[Query]


def modified(folder: Path) -> tuple[int, ...]:
    """When each of the files was last written: changes where `read` would read something else."""
    files = (folder / path for path in (METRICS, CLASSES, CONFUSION, CURVE, RESULTS))
    return tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in files)


def read(folder: Path) -> Evaluation:
    """Read the evaluation in `folder`. Raises `InputError` naming a file that is missing or broken."""
    path = folder / METRICS
    try:
        metrics = json.loads(_text(path))
        if not isinstance(metrics, dict):
            raise TypeError(f"{type(metrics).__name__} instead of an object")
        path = folder / CLASSES
        scores = [
            Score(name, int(queries), float(accuracy), _known(precision))
            for name, queries, accuracy, precision in _rows(path, CLASSES)
        ]
        path = folder / CONFUSION
        pairs = Counter((actual, predicted) for actual, predicted in _rows(path, CONFUSION))
        path = folder / CURVE
        curve = [(float(recall), float(precision)) for recall, precision in _rows(path, CURVE)]
        path = folder / RESULTS
        found = _queries(_rows(path, RESULTS))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not as `evaluate` writes it ({error}); run `dvc repro evaluate`") from None
    return Evaluation(
        metrics,
        scores,
        [Confusion(*pair, count) for pair, count in sorted(pairs.items())],
        curve,
        found,
    )


def _queries(rows: Iterable[Sequence[str]]) -> list[Query]:
    queries: dict[str, Query] = {}
    for path, of, predicted, rank, distance, image_path, class_image in rows:
        if path not in queries:
            queries[path] = Query(len(queries), Photo(path, of), predicted, [])
        queries[path].found.append(Found(int(rank), float(distance), Photo(image_path, class_image)))
    return list(queries.values())


def _known(number: str) -> float | None:
    return None if number == "nan" else float(number)


def _rows(path: Path, table: Path) -> Iterator[tuple[str, ...]]:
    try:
        rows = tables.read(path, HEADERS[table], made_by="dvc repro evaluate")
    except DamagedError:
        raise
    except InputError as error:
        if not path.exists():
            raise
        raise ValueError(str(error).removeprefix(str(path)).lstrip(":, ")) from None
    return rows.itertuples(index=False, name=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `dvc repro evaluate` makes it") from None
