"""Split the catalog into training, validation, query and index photos."""

import logging
from pathlib import Path

from landmarks import catalog, params, splits
from landmarks.errors import run


def main() -> None:
    options = params.load()
    photos = catalog.read_photos(Path("data/catalog.csv"))
    fractions = {part: getattr(options.split, part) for part in splits.PARTS}
    parts = splits.split(photos, fractions, options.seed, options.split.allow_unmatched)
    for part, members in parts.items():
        catalog.write_rows(Path("data/splits", f"{part}.csv"), catalog.Photo._fields, members)
    logging.info(", ".join(f"{part} {len(members)}" for part, members in parts.items()))


if __name__ == "__main__":
    run(main)
