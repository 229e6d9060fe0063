"""What the JSON API answers. A distance is null where it is infinite: a photo without keypoints (VLAD)."""

from pydantic import BaseModel, Field


class Method(BaseModel):
    """A distance or a way of re-ranking."""

    name: str
    title: str = Field(description="What it is, or empty.")


class Landmark(BaseModel):
    """A landmark of the index."""

    name: str
    photos: int


class Options(BaseModel):
    """What can be asked, and of what."""

    distances: list[Method]
    reranks: list[Method]
    distance: str = Field(description="The one of params.yaml, used where none is given.")
    rerank: str = Field(description="The one of params.yaml, used where none is given.")
    vote_depth: int = Field(description="How many of the nearest photos vote.")
    reject_above: float | None = Field(description="A nearest distance above it means: no landmark.")
    model: str
    photos: int = Field(description="In the index.")
    landmarks: list[Landmark]
    max_bytes: int = Field(description="Of an upload.")
    max_pixels: int = Field(description="Of an upload.")
    formats: list[str]


class IndexPhoto(BaseModel):
    """A photo of the index."""

    row: int = Field(description="Its number, from 0.")
    path: str
    landmark: str


class IndexPhotos(BaseModel):
    """Some photos of the index."""

    total: int
    photos: list[IndexPhoto]


class Result(IndexPhoto):
    """A photo of the index that answers a query."""

    rank: int = Field(description="From 1.")
    distance: float | None


class Vote(BaseModel):
    """The votes for a landmark."""

    landmark: str
    votes: int


class Known(BaseModel):
    """A query that was not uploaded."""

    path: str
    landmark: str


class Milliseconds(BaseModel):
    """How long it took."""

    describe: float
    search: float


class Answer(BaseModel):
    """What the index knows of a photo."""

    query: Known | None = Field(description="Null for an upload.")
    landmark: str | None = Field(description="Null where the photo resembles no landmark.")
    votes: list[Vote] = Field(description="Most first.")
    nearest: float | None = Field(description="The distance of the nearest photo.")
    distance: str
    rerank: str
    results: list[Result]
    milliseconds: Milliseconds


class Score(BaseModel):
    """How well the queries of a landmark were answered."""

    landmark: str
    queries: int
    accuracy: float
    average_precision: float | None = Field(description="Null where the index has no photo of it.")


class Confusion(BaseModel):
    """How many queries of a landmark were taken for which."""

    actual: str
    predicted: str
    queries: int


class Evaluation(BaseModel):
    """The figures that `dvc repro` left in `reports/`."""

    metrics: dict[str, float]
    landmarks: list[Score]
    confusion: list[Confusion] = Field(description="The pairs that occur.")
    curve: list[tuple[float, float]] = Field(description="Recall and precision.")


class Found(BaseModel):
    """A result of a query of the evaluation."""

    rank: int
    distance: float | None
    path: str
    landmark: str
    row: int | None = Field(description="Its number, null where the index has it no more.")


class Evaluated(BaseModel):
    """A query of the evaluation with its first results."""

    number: int
    path: str
    landmark: str
    predicted: str
    precision: float | None = Field(description="Average precision over these results.")
    results: list[Found]


class EvaluatedQueries(BaseModel):
    """Some queries of the evaluation, worst first."""

    total: int
    queries: list[Evaluated]


class Health(BaseModel):
    """That the server answers."""

    status: str


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str
