"""Check all parameters, and that the photos of the dataset are there, before anything runs long."""

from pathlib import Path

from landmarks import params
from landmarks.errors import InputError, run


def main() -> None:
    dataset = params.load().dataset
    images = Path("data", dataset, "images")
    if dataset != "demo" and not images.is_dir():
        raise InputError(
            f"dataset: there is no folder {images}; expected one folder of photos per landmark, as in "
            f"{images}/<landmark>/photo.jpg"
        )


if __name__ == "__main__":
    run(main)
