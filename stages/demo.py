"""Draw the demo photos."""

from pathlib import Path

from landmarks import params
from landmarks.demo import drawing
from landmarks.errors import run


def main() -> None:
    options = params.load().demo
    drawing.draw(Path("data/demo/images"), classes=options.classes, photos=options.photos, seed=options.seed)


if __name__ == "__main__":
    run(main)
