"""Vote on the landmark of each query and re-rank its results."""

from collections.abc import Iterator
from pathlib import Path

from landmarks import catalog, params, rankings, rerank
from landmarks.errors import run


def main() -> None:
    options = params.load()
    with rankings.opened(Path("rankings/retrieved.h5")) as retrieved:
        names, classes = catalog.numbered([photo.class_image for photo in retrieved.index])
        predicted: list[str] = []

        def blocks() -> Iterator[rankings.Block]:
            for _, block in retrieved.blocks():
                block, votes = rerank.rerank(
                    block, options.rerank, classes, options.rerank_options.vote_depth
                )
                predicted.extend("" if vote < 0 else names[vote] for vote in votes)
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
