"""Check all parameters, and that the photos of the dataset are there, before anything runs long."""

from pathlib import Path

from landmarks import folders, params
from landmarks.errors import run


def main() -> None:
    dataset = params.load().dataset
    if dataset != "demo":  # whose photos a stage draws
        folders.landmark_folders(Path("data", dataset, "images"))


if __name__ == "__main__":
    run(main)
