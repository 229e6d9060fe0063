"""Split the catalog into training, validation, query and index photos."""

import logging
from pathlib import Path

from landmarks import params
from landmarks.errors import run
from landmarks.photos import catalog, ground_truth, splits


def main() -> None:
    options = params.load()
    photos, contents = catalog.read_catalog(Path("data/catalog.csv"))
    together = options.split.near_copies == "together"
    groups = catalog.read_groups(Path("data/near_copies.csv")) if together else {}
    fractions = {part: getattr(options.split, part) for part in splits.PARTS}
    if options.split.method == "classes":
        parts = splits.split(photos, fractions, options.seed, contents, groups)
    else:
        truth = ground_truth.read(Path("data/ground_truth.csv"))
        in_index = options.evaluate.queries_in_index
        parts = splits.by_ground_truth(photos, truth, fractions, options.seed, in_index, contents, groups)
    for part, members in parts.items():
        catalog.write_photos(Path("data/splits", f"{part}.csv"), members)
    logging.info(", ".join(f"{part} {len(members)}" for part, members in parts.items()))


if __name__ == "__main__":
    run(main)
