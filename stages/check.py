"""Check all parameters, and that DVC can read the photos of the dataset, before anything runs long."""

import logging

from landmarks import params
from landmarks.errors import InputError, run
from landmarks.photos import folders


def main() -> None:
    for warning in folders.of_root():
        logging.warning(warning)
    dataset = params.load().dataset
    checked = folders.check(dataset, drawn=dataset == "demo")
    if checked.obstacles:
        raise InputError("\n".join(checked.named()))


if __name__ == "__main__":
    run(main)
