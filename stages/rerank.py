"""Re-rank the results of each query, and vote on its landmark."""

from collections.abc import Iterator
from pathlib import Path

from landmarks import files, params
from landmarks.errors import InputError, run
from landmarks.reranking.reranker import Reranker
from landmarks.searching import features, rankings

RETRIEVED, RERANKED = Path("rankings/retrieved.h5"), Path("rankings/reranked.h5")
QUERIES, INDEX = Path("features/test.h5"), Path("features/index.h5")


def main() -> None:
    files.sweep()
    options = params.load()
    with (
        features.opened(QUERIES) as queries,
        features.opened(INDEX) as index,
        rankings.opened(RETRIEVED, queries.photos, index.photos) as retrieved,
    ):
        for path, store in {QUERIES: queries, INDEX: index}.items():
            features.sweep(path, store, options.extract.batch_size)
        if (queries.photos, index.photos) != (retrieved.queries, retrieved.index):
            raise InputError(f"{RETRIEVED}: not a search in features/ as it is now; run `dvc repro` again")
        distance = retrieved.attributes["distance"]
        in_index = options.evaluate.queries_in_index
        memory = options.retrieve.memory << 20
        depth = retrieved.rows.shape[1]
        rankings.check_room(RERANKED, len(retrieved.queries), depth)
        rankings.tell_need(Reranker.bytes_a_result * depth, memory)
        reranker = Reranker(
            options.rerank, index, distance, options.rerank_options, keep_own=in_index, memory=memory
        )
        predicted: list[str] = []

        def blocks() -> Iterator[rankings.Block]:
            for part, block in retrieved.blocks(memory, Reranker.bytes_a_result):
                photos = [photo.source for photo in retrieved.queries[part]]
                block, votes = reranker.rerank(photos, queries.features[part], block)
                predicted.extend(reranker.voted(votes))
                yield block

        rankings.write(
            RERANKED,
            retrieved.queries,
            retrieved.index,
            depth,
            blocks(),
            {**retrieved.attributes, "rerank": options.rerank},
            predicted,
        )


if __name__ == "__main__":
    run(main)
