"""Search the index for the nearest photos of each query."""

from pathlib import Path

from landmarks import params
from landmarks.errors import run
from landmarks.searching import features, rankings

RETRIEVED = Path("rankings/retrieved.h5")


def main() -> None:
    options = params.load()
    distance = options.distance
    with (
        features.opened(Path("features/test.h5")) as queries,
        features.opened(Path("features/index.h5")) as index,
    ):
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
