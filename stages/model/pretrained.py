"""Take the trunk as it comes, with the weights asked for."""

from pathlib import Path

from landmarks import catalog, describers, params
from landmarks.errors import run

CURVE = Path("reports/training.csv")


def main() -> None:
    options = params.load()
    from landmarks import trunks  # takes seconds to import, so bad parameters are told before

    trunk = trunks.pretrained(
        options.backbone,
        options.weights,
        seed=options.seed,
        layer=options.pretrained.layer,
        **options.pretrained.describing(),
    )
    catalog.write_rows(CURVE, ["epoch"], [])  # no training, no curve
    describers.write(Path("models/model.safetensors"), trunk)


if __name__ == "__main__":
    run(main)
