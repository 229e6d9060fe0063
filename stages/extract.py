"""Describe the photos of one part of the split: `python -m stages.extract index|test`."""

import sys
from pathlib import Path

from landmarks import files, params
from landmarks.describing import describers
from landmarks.errors import InputError, run
from landmarks.photos import catalog
from landmarks.searching import features

MODEL = Path("models/model.safetensors")


def main() -> None:
    files.sweep()
    part = sys.argv[1]
    options = params.load()
    source = Path("data/splits", f"{part}.csv")
    photos = catalog.read_photos(source)
    if not photos:
        share = getattr(options.split, part)
        raise InputError(f"{source}: no photos in it; split.{part} is {share}; raise it, or add photos")
    execution = options.extract.execution()
    describer = describers.read(MODEL, **execution)
    attributes = {
        "kind": describer.kind,
        "model_sha256": files.sha256(MODEL),
        **describer.settings(),
        **execution,
    }
    attributes.pop("classes", None)  # of the head, which describes nothing
    store = Path("features", f"{part}.h5")
    features.extract(store, photos, describer, attributes, options.extract.batch_size)


if __name__ == "__main__":
    run(main)
