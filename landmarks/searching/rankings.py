"""The HDF5 store of rankings: for every query the rows of the index, nearest first."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from landmarks import hdf5
from landmarks.errors import InputError
from landmarks.files import damaged, explained
from landmarks.photos.catalog import Photo, rows_by_path
from landmarks.progress import tqdm
from landmarks.searching.features import Store
from landmarks.searching.photo_rows import read_photos, read_texts, write_photos

if TYPE_CHECKING:
    from landmarks.searching.search import Rows

KIND = "landmarks rankings"
QUERIES_AT_ONCE = 64
NO_ROW = -1
SEARCH_MEMORY = 256 << 20  # bytes, where no parameter says
LARGE = 1 << 30
"""Bytes of a store of rankings that are told before it is made."""

log = logging.getLogger(__name__)


class Block(NamedTuple):
    """The rankings of some consecutive queries."""

    rows: NDArray[np.int32]
    """(q, K) rows of the index, nearest first; `NO_ROW` where a ranking is shorter than K."""
    distances: NDArray[np.float32]
    """(q, K); inf where there is no row."""


@dataclass(frozen=True)
class Rankings:
    """An open store of rankings; `rows` and `distances` are read from the file where they are sliced."""

    rows: hdf5.Rows
    distances: hdf5.Rows
    queries: list[Photo]
    index: list[Photo]
    predicted: list[str]
    """The class voted for each query, '' for none; empty before re-ranking."""
    attributes: dict[str, Any]
    path: Path = Path("rankings")

    def blocks(self, memory: int = SEARCH_MEMORY, each: int = 16) -> Iterator[tuple[slice, Block]]:
        """All rankings, some at a time, with the queries that they belong to.

        At most `QUERIES_AT_ONCE`, and as many as `memory` has room for where each result takes `each` bytes.
        """
        together = at_once(each * self.rows.shape[1], memory, QUERIES_AT_ONCE)
        for start in tqdm(range(0, len(self.queries), together), unit="block", leave=False, delay=1):
            part = slice(start, start + together)
            yield part, self.block(part)

    def block(self, part: slice) -> Block:
        """The rankings of the queries `part`. Raises `InputError` where they are damaged, or no rankings."""
        rows, distances = self.rows[part], self.distances[part]
        if (rows < NO_ROW).any() or (rows >= len(self.index)).any() or np.isnan(distances).any():
            raise damaged(self.path, "has results that are no rows of the index")
        return Block(rows, distances)


def retrieve(
    queries: Store, index: Store, distance: str, depth: int | None, memory: int, keep_own: bool = False
) -> Iterator[Block]:
    """Rank the index for each query, as many queries at a time as `memory` (bytes) has room for.

    A row of the index with the query's own path is left out, unless `keep_own`. K is the whole index, or
    `depth` if that is less. Raises `InputError` if the two stores were not made by the same model.
    """
    names = [store.attributes["model_sha256"] for store in (queries, index)]
    if names[0] != names[1]:
        raise InputError(
            f"features: queries and index were described by different models (sha256 {names[0][:12]}... "
            f"and {names[1][:12]}...); run `dvc repro` again"
        )
    depth = ranking_depth(len(index.photos), depth)
    paths = ["" if keep_own else photo.image_path for photo in queries.photos]
    own = own_rows(paths, rows_by_path(index.photos))
    bar = tqdm(total=len(own), desc=f"searching by {distance}", unit="query")
    a_query = 2 * bytes_a_query(index.features.shape[1], depth)
    tell_need(a_query, memory)
    together = at_once(a_query, memory, 1024)
    with bar:
        for start in range(0, len(own), together):
            part = slice(start, start + together)
            yield nearest(
                queries.features[part], own[part], index.features, distance, depth, index.zeros_last, memory
            )
            bar.update(len(own[part]))


def own_rows(queries: Sequence[str], row_of: Mapping[str, int]) -> NDArray[np.int64]:
    """The row of the index with the path of each query, `NO_ROW` where there is none: (Q,)."""
    return np.array([row_of.get(path, NO_ROW) for path in queries], np.int64)


def nearest(
    descriptors: NDArray[np.float32],
    own: NDArray[np.int64],
    index: "Rows",
    distance: str,
    depth: int,
    zeros_last: bool,
    memory: int = SEARCH_MEMORY,
) -> Block:
    """The `depth` rows of `index` nearest to each of `descriptors` (Q, D), but its `own` row (Q,).

    The pieces in which an index in a file is read take half of `memory` (bytes) at most; each query takes
    `bytes_a_query` besides.
    """
    # A third of a second for Numba, which readers of rankings save.
    from landmarks.searching.search import top_k

    spare = int((own != NO_ROW).any())
    distances, rows = top_k(descriptors, index, distance, depth + spare, zeros_last, memory // 2)
    if not spare:
        return Block(rows.astype(np.int32), distances)
    shape = len(rows), min(depth, len(index))
    found = Block(np.full(shape, NO_ROW, np.int32), np.full(shape, np.inf, np.float32))
    for query, row in enumerate(own):
        [place] = np.flatnonzero(rows[query] == row) if row in rows[query] else [shape[1]]
        for kept, all_found in zip(found, (rows[query], distances[query]), strict=True):
            rest = all_found[place + 1 :]
            kept[query, :place] = all_found[:place]
            kept[query, place : place + len(rest)] = rest
    return found


def bytes_a_query(dimensions: int, depth: int) -> int:
    """The memory that a query takes while it is searched for and its ranking is sorted and written."""
    return 12 * dimensions + 32 * depth


def at_once(bytes_a_query: int, memory: int, most: int) -> int:
    """How many queries to take at a time: those that `memory` (bytes) has room for, 1 to `most`."""
    return max(1, min(most, memory // bytes_a_query))


def tell_need(
    needed: int, memory: int, what: str = "a query with its results", lower: str = "retrieve.depth"
) -> None:
    """Say so if `what` takes more than `memory` (bytes); with less of the parameter `lower` it takes less."""
    if needed > memory:
        log.warning(
            "retrieve.memory: %d MB are not kept to, since %s takes more; set it to %d, or lower %s",
            *(memory >> 20, what, -(-needed >> 20), lower),
        )


def ranking_depth(index: int, depth: int | None) -> int:
    """K: how many results a ranking has."""
    return index if depth is None else min(depth, index)


def check_room(path: Path, queries: int, depth: int) -> None:
    """Say how large the store of rankings at `path` will be if it is `LARGE`.

    Raises `InputError` if the disk has not as much space.
    """
    needed = 8 * queries * depth
    if needed < 1 << 20:  # there is always as much, or else writing says so at once
        return
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    told = f"{path}: {queries} queries with {depth} results each take {needed / 1e9:.3g} GB"
    if free < needed:
        raise InputError(
            f"{told}, {free / 1e9:.3g} GB of the disk are free; lower retrieve.depth, or free some space"
        )
    if needed >= LARGE:
        log.info("%s of the disk; a lower retrieve.depth keeps fewer", told)


def write(
    path: Path,
    queries: list[Photo],
    index: list[Photo],
    depth: int,
    blocks: Iterable[Block],
    attributes: Mapping[str, Any],
    predicted: list[str] | None = None,
) -> None:
    """Write rankings of `depth` results as `blocks` bring them; `predicted` may fill as they come."""
    shape = (len(queries), depth)
    with hdf5.writing(path, KIND) as file:
        rows, distances = file.rows("rows", shape, np.int32), file.rows("distances", shape, np.float32)
        for block in blocks:
            rows.append(block.rows)
            distances.append(block.distances)
        write_photos(file.file, "query_", queries)
        write_photos(file.file, "index_", index)
        file.file.create_dataset("predicted", data=predicted or [], dtype=h5py.string_dtype())
        file.file.attrs.update(attributes)


@contextmanager
def opened(path: Path, *known: list[Photo]) -> Iterator[Rankings]:
    """Open the store of rankings at `path`. Raises `InputError` where it is none, or damaged.

    If its queries or its index are a `known` list of photos, they are not held twice.
    """
    with hdf5.opened(path, KIND) as file:
        try:
            rows = hdf5.Rows(path, file, "rows", (None, None), np.int32)
            rankings = Rankings(
                rows,
                hdf5.Rows(path, file, "distances", rows.shape, np.float32),
                _same(read_photos(file, "query_", len(rows)), known),
                _same(read_photos(file, "index_"), known),
                read_texts(file, "predicted"),
                dict(file.attrs),
                path,
            )
            if len(rankings.predicted) not in (0, len(rows)):
                raise ValueError(f"{len(rankings.predicted)} landmarks are voted for {len(rows)} queries")
        except hdf5.BROKEN as error:
            raise hdf5.refused(path, error, "a store of rankings") from None
        yield rankings


def _same(photos: list[Photo], known: Sequence[list[Photo]]) -> list[Photo]:
    return next((others for others in known if others == photos), photos)
