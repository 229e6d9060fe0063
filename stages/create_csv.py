"""List the photos of the dataset, and the files that are not photos."""

import logging
from pathlib import Path

from landmarks import catalog, params
from landmarks.errors import run


def main() -> None:
    options = params.load()
    images = Path("data", options.dataset, "images")
    photos, rejected = catalog.scan(images, options.create_csv.max_pixels)
    catalog.write_rows(Path("data/catalog.csv"), catalog.Photo._fields, photos)
    catalog.write_rows(Path("data/rejected.csv"), catalog.Rejected._fields, rejected)
    classes = {photo.class_image for photo in photos}
    logging.info("%d photos of %d landmarks", len(photos), len(classes))
    if rejected:
        logging.warning("%d files rejected, see data/rejected.csv", len(rejected))


if __name__ == "__main__":
    run(main)
