"""Take the trunk as it comes, with the weights asked for."""

from pathlib import Path

from landmarks import params, tables
from landmarks.describing import describers
from landmarks.errors import run
from landmarks.photos import catalog

CURVE = Path("reports/training.csv")


def main() -> None:
    options = params.load()
    from landmarks.describing import trunks  # takes seconds to import, so bad parameters are told before

    trunk = trunks.pretrained(
        options.backbone,
        options.weights,
        seed=options.seed,
        layer=options.pretrained.layer,
        **options.pretrained.describing(),
    )
    tables.write(CURVE, ["epoch"], [])  # no training, no curve
    train = catalog.read_photos(Path("data/splits/train.csv"))
    model = describers.whitened(trunk, train, **options.extract.whitened())
    describers.write(Path("models/model.safetensors"), model)


if __name__ == "__main__":
    run(main)
