"""Learn a codebook of visual words over the SIFT descriptors of the training photos."""

from pathlib import Path

from landmarks import params, tables
from landmarks.describing import describers, vlad
from landmarks.errors import InputError, run
from landmarks.photos import catalog

TRAIN = Path("data/splits/train.csv")
CURVE = Path("reports/training.csv")


def main() -> None:
    options = params.load()
    photos = catalog.read_photos(TRAIN)
    if not photos:
        raise InputError(f"{TRAIN}: no photos to learn visual words from; raise split.train, or add photos")
    model = vlad.train([Path(photo.image_path) for photo in photos], **options.vlad.model_dump())
    tables.write(CURVE, ["epoch"], [])  # no training, no curve
    whitened = describers.whitened(model, photos, **options.extract.whitened())
    describers.write(Path("models/model.safetensors"), whitened)


if __name__ == "__main__":
    run(main)
