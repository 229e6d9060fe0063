"""Re-ranking by a chain of methods: `Reranker`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from landmarks.chain import parse
from landmarks.errors import InputError
from landmarks.params import RerankOptions
from landmarks.photos.catalog import numbered, rows_by_path
from landmarks.photos.images import Crop, Source
from landmarks.progress import tqdm
from landmarks.reranking import labels
from landmarks.reranking._descriptors import Floats, cosines, gathered, norm_of, together
from landmarks.searching.features import Store, block_rows
from landmarks.searching.rankings import SEARCH_MEMORY, Block, nearest, own_rows, tell_need

if TYPE_CHECKING:
    from landmarks.searching.search import Rows


@dataclass(frozen=True)
class Queries:
    """Some queries, and the ranking of each as the methods so far have left it."""

    photos: Sequence[Source]
    descriptors: Floats
    """(Q, D)."""
    ranking: Block
    verified: NDArray[np.bool_] | None = None
    """(Q, K): which results are known to show the same thing; None if no method has looked."""


class Index:
    """What is searched; `dba` replaces its descriptors."""

    def __init__(self, store: Store, distance: str, root: Path, keep_own: bool, memory: int) -> None:
        self.root = root
        self.keep_own = keep_own
        self.memory = memory
        """Bytes besides the rankings: for what is read of the index, averages, graphs."""
        self.descriptors: Rows = store.features
        self.photos = store.photos
        self.row_of = rows_by_path(store.photos)
        self.distance = distance
        self.zeros_last = store.zeros_last
        first = block_rows(store.features.shape[1])
        # To the cosine the length of a descriptor is nothing, so it must not weigh in an average either.
        self.norm = 2 if distance == "L3" else norm_of(store.features, first)

    def search(self, queries: Queries) -> Queries:
        """Rank the index anew, to the same depth."""
        paths = ["" if self.keep_own else _path(photo) for photo in queries.photos]
        own = own_rows(paths, self.row_of)
        depth = queries.ranking.rows.shape[1]
        found = nearest(
            queries.descriptors,
            own,
            self.descriptors,
            self.distance,
            depth,
            self.zeros_last,
            2 * self.memory,
        )
        return replace(queries, ranking=found, verified=None)


def _path(photo: Source) -> str:
    if isinstance(photo, bytes):
        return ""
    return (photo.path if isinstance(photo, Crop) else photo).as_posix()


Step = Callable[[Queries], Queries]
Scores = NDArray[np.float64]
Shortlists = Sequence[tuple[int, NDArray[np.int32]]]
"""Queries, and the rows of the index that are to be sorted for each."""


def _dba(index: Index, options: RerankOptions) -> Step:
    from landmarks.reranking.dba import augmented

    _refuse_quadratic("dba", index, options)
    index.descriptors = augmented(
        index.descriptors,
        index.distance,
        options.dba.neighbours,
        options.dba.alpha,
        index.norm,
        index.zeros_last,
        index.memory,
    )
    return index.search


def _aqe(index: Index, options: RerankOptions) -> Step:
    return partial(_expand, index, options.aqe.neighbours, 0)


def _alpha_qe(index: Index, options: RerankOptions) -> Step:
    return partial(_expand, index, options.alpha_qe.neighbours, options.alpha_qe.alpha)


def _expand(index: Index, neighbours: int, alpha: float, queries: Queries) -> Queries:
    from landmarks.reranking.query_expansion import expanded

    rows, distances = (part[:, :neighbours] for part in queries.ranking)
    there = np.isfinite(distances)
    if queries.verified is not None:
        there &= queries.verified[:, :neighbours]
    at_once = together(index.memory, queries.descriptors.shape[1], neighbours)
    blocks = []
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        near = gathered(index.descriptors, np.where(there[part], rows[part], 0))
        blocks.append(expanded(queries.descriptors[part], near, there[part], alpha, index.norm))
    return index.search(replace(queries, descriptors=np.concatenate(blocks)))


def _k_reciprocal(index: Index, options: RerankOptions) -> Step:
    from landmarks.reranking.k_reciprocal import bytes_of, distances

    chosen = options.k_reciprocal
    results = min(options.shortlist, len(index.photos))
    what = f"k_reciprocal, which compares the first {results} results of a query with each other,"
    tell_need(2 * bytes_of(results), 2 * index.memory, what, "rerank_options.shortlist")

    def scores(queries: Queries, shortlists: Shortlists) -> Iterator[Scores]:
        for query, rows in shortlists:
            own, results = queries.descriptors[query], gathered(index.descriptors, rows)
            yield distances(own, results, index.distance, chosen.k1, chosen.k2, chosen.weight)

    return partial(_reorder, "k_reciprocal", options.shortlist, scores)


def _diffusion(index: Index, options: RerankOptions) -> Step:
    from landmarks.reranking.diffusion import graph, graph_bytes, reached

    chosen = options.diffusion
    _refuse_quadratic("diffusion", index, options)
    needed = graph_bytes(len(index.photos), chosen.neighbours)
    what = f"the graph of diffusion, of {len(index.photos)} photos,"
    tell_need(2 * needed, 2 * index.memory, what, "rerank_options.diffusion.neighbours")
    affinity = graph(
        index.descriptors,
        index.distance,
        chosen.neighbours,
        chosen.gamma,
        index.zeros_last,
        index.memory,
    )

    def scores(queries: Queries, shortlists: Shortlists) -> Iterator[Scores]:
        for query, rows in shortlists:
            near = gathered(index.descriptors, rows[: chosen.query_neighbours])
            seeds = np.zeros(len(rows))
            cosine = cosines(queries.descriptors[[query]], near[None])[0]
            seeds[: len(near)] = cosine.clip(min=0) ** chosen.gamma
            yield -reached(affinity, rows, seeds, chosen.alpha)

    return partial(_reorder, "diffusion", options.shortlist, scores)


def _geometric(index: Index, options: RerankOptions) -> Step:
    from landmarks.reranking.geometric import cached_photos, one_thread_each, verified

    cached = cached_photos(index.memory, options.geometric)

    def photo_of(queries: Queries, query: int) -> Source:
        photo = queries.photos[query]
        if isinstance(photo, Crop):
            return photo._replace(path=index.root / photo.path)
        return photo if isinstance(photo, bytes) else index.root / photo

    def step(queries: Queries) -> Queries:
        agreeing = np.zeros(queries.ranking.rows.shape, np.bool_)

        def scores(queries: Queries, shortlists: Shortlists) -> Iterator[Scores]:
            tasks = [
                (photo_of(queries, query), [index.root / index.photos[row].image_path for row in rows])
                for query, rows in shortlists
            ]
            counts = verified(tasks, options.geometric, cached=cached)
            for (query, _), inliers in zip(shortlists, counts, strict=True):
                agreeing[query, : np.count_nonzero(inliers)] = True  # they will come first
                yield -inliers.astype(np.float64)

        with one_thread_each():
            return replace(_reorder("geometric", options.shortlist, scores, queries), verified=agreeing)

    return step


def _reorder(
    name: str,
    shortlist: int,
    scores: Callable[[Queries, Shortlists], Iterator[Scores]],
    queries: Queries,
) -> Queries:
    """Sort the first `shortlist` results of each query by their `scores`, the lower the nearer.

    Equal ones keep their order. Each photo keeps the distance at which it was found. What is infinitely far
    keeps its place.
    """
    rows, distances = queries.ranking.rows.copy(), queries.ranking.distances.copy()
    counts = np.isfinite(distances[:, :shortlist]).sum(axis=1)
    shortlists = [(query, queries.ranking.rows[query, :count]) for query, count in enumerate(counts) if count]
    bar = tqdm(shortlists, name, unit="query", leave=False, delay=1)
    for (query, listed), found in zip(bar, scores(queries, shortlists), strict=True):
        order = np.argsort(found, kind="stable")
        rows[query, : len(order)] = listed[order]
        distances[query, : len(order)] = distances[query, order]
    return replace(queries, ranking=Block(rows, distances))


def _refuse_quadratic(name: str, index: Index, options: RerankOptions) -> None:
    if len(index.photos) > options.max_quadratic:
        raise InputError(
            f"rerank: {name} compares all {len(index.photos)} photos of the index with each other, and "
            f"rerank_options.max_quadratic is {options.max_quadratic}; raise it, or take aqe, alpha_qe or "
            "k_reciprocal, which search the index once a query"
        )


# All but `one`, which does nothing, and `two`, which takes the vote that every ranking gets.
STEPS: dict[str, Callable[[Index, RerankOptions], Step]] = {
    "dba": _dba,
    "aqe": _aqe,
    "alpha_qe": _alpha_qe,
    "k_reciprocal": _k_reciprocal,
    "diffusion": _diffusion,
    "geometric": _geometric,
}


class Reranker:
    """Re-ranks rankings of one index by the methods of a chain such as `dba+aqe+two`.

    `chain` is as in `chain.parse`, `distance` that of the rankings; paths of photos start at `root`.
    A query's own photo is left out where the index is searched anew, unless `keep_own`. Half of `memory`
    (bytes) is for what is read and made of the index, half for the rankings: of as many queries at a time as
    it has room for where each result takes `bytes_a_result`. Raises `InputError` if the chain is not
    allowed, or a method is too costly for the index.

    >>> from landmarks import params
    >>> from landmarks.photos import Photo
    >>> descriptors = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]], np.float32)
    >>> photos = [Photo("a.jpg", "abbey"), Photo("b.jpg", "keep"), Photo("c.jpg", "keep")]
    >>> store = Store(descriptors, photos, {})
    >>> reranker = Reranker("two", store, "L1", params.load().rerank_options)
    >>> found = Block(np.array([[0, 1, 2]]), np.array([[0.1, 0.3, 0.4]]))
    >>> ranking, votes = reranker.rerank([Path("query.jpg")], descriptors[:1], found)
    >>> reranker.voted(votes), ranking.rows
    (['keep'], array([[1, 2, 0]]))
    """

    bytes_a_result = 96
    """Of the memory, for each result of a query: half of it for the rankings, half for the index."""

    def __init__(
        self,
        chain: str,
        index: Store,
        distance: str,
        options: RerankOptions,
        root: Path = Path(),
        keep_own: bool = False,
        memory: int = SEARCH_MEMORY,
    ) -> None:
        try:
            names = parse(chain)
        except ValueError as error:
            raise InputError(f"rerank: {error}") from None
        searched = Index(index, distance, root, keep_own, memory // 2)
        self._steps = [STEPS[name](searched, options) for name in names if name in STEPS]
        self._two = "two" in names
        self.classes, self._classes = numbered([photo.class_image for photo in index.photos])
        self._vote_depth = options.vote_depth

    def rerank(
        self, photos: Sequence[Source], descriptors: Floats, ranking: Block
    ) -> tuple[Block, NDArray[np.intp]]:
        """The new rankings of some queries, and their votes: (Q, classes).

        The vote is on the ranking that all methods but `two` leave.
        """
        queries = Queries(photos, descriptors, ranking)
        for step in self._steps:
            queries = step(queries)
        votes = labels.count_votes(queries.ranking, self._classes, self._vote_depth)
        if not self._two:
            return queries.ranking, votes
        return labels.voted_first(queries.ranking, self._classes, labels.winners(votes)), votes

    def voted(self, votes: NDArray[np.intp]) -> list[str]:
        """The class that most of the `votes` (Q, classes) of each query are for, '' for none."""
        return ["" if winner < 0 else self.classes[winner] for winner in labels.winners(votes)]
