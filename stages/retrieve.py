"""Search the index for the nearest photos of each query."""

from pathlib import Path

from landmarks import params
from landmarks.errors import run
from landmarks.searching import features, rankings


def main() -> None:
    options = params.load()
    depth, distance = options.retrieve.depth, options.distance
    with (
        features.opened(Path("features/test.h5")) as queries,
        features.opened(Path("features/index.h5")) as index,
    ):
        rankings.write(
            Path("rankings/retrieved.h5"),
            queries.photos,
            index.photos,
            rankings.ranking_depth(len(index.photos), depth),
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
