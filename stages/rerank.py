"""Re-rank the results of each query, and vote on its landmark."""

from collections.abc import Iterator
from pathlib import Path

from landmarks import files, params
from landmarks.errors import InputError, run
from landmarks.reranking.reranker import Reranker
from landmarks.searching import features, rankings

RETRIEVED = Path("rankings/retrieved.h5")
QUERIES, INDEX = Path("features/test.h5"), Path("features/index.h5")


def main() -> None:
    files.sweep()
    options = params.load()
    with (
        rankings.opened(RETRIEVED) as retrieved,
        features.opened(QUERIES) as queries,
        features.opened(INDEX) as index,
    ):
        for path, store in {QUERIES: queries, INDEX: index}.items():
            features.sweep(path, store, options.extract.batch_size)
        if (queries.photos, index.photos) != (retrieved.queries, retrieved.index):
            raise InputError(f"{RETRIEVED}: not a search in features/ as it is now; run `dvc repro` again")
        distance = retrieved.attributes["distance"]
        in_index = options.evaluate.queries_in_index
        reranker = Reranker(options.rerank, index, distance, options.rerank_options, keep_own=in_index)
        predicted: list[str] = []

        def blocks() -> Iterator[rankings.Block]:
            for part, block in retrieved.blocks():
                photos = [photo.source for photo in retrieved.queries[part]]
                block, votes = reranker.rerank(photos, queries.features[part], block)
                predicted.extend(reranker.voted(votes))
                yield block

        rankings.write(
            Path("rankings/reranked.h5"),
            retrieved.queries,
            retrieved.index,
            retrieved.rows.shape[1],
            blocks(),
            {**retrieved.attributes, "rerank": options.rerank},
            predicted,
        )


if __name__ == "__main__":
    run(main)
