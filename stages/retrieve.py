"""Search the index for the nearest photos of each query."""

from pathlib import Path

from landmarks import files, params
from landmarks.errors import run
from landmarks.searching import features, rankings

RETRIEVED = Path("rankings/retrieved.h5")
QUERIES, INDEX = Path("features/test.h5"), Path("features/index.h5")


def main() -> None:
    files.sweep()
    options = params.load()
    distance = options.distance
    with (
        features.opened(QUERIES) as queries,
        features.opened(INDEX) as index,
    ):
        for path, store in {QUERIES: queries, INDEX: index}.items():
            features.sweep(path, store, options.extract.batch_size)
        depth = rankings.ranking_depth(len(index.photos), options.retrieve.depth)
        rankings.check_room(RETRIEVED, len(queries.photos), depth)
        rankings.write(
            RETRIEVED,
            queries.photos,
            index.photos,
            depth,
            rankings.retrieve(
                queries,
                index,
                distance,
                depth,
                options.retrieve.memory << 20,
                options.evaluate.queries_in_index,
            ),
            {**index.attributes, "distance": distance},
        )


if __name__ == "__main__":
    run(main)
