"""The commands of `landmarks` that bring published photos and their ground truth into `data/`."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from landmarks.errors import InputError

app = typer.Typer()

DOWNLOADS = Path("downloads")
Urls = Annotated[list[str] | None, typer.Option(help="A URL in the place of a published one.")]


@app.command()
def fetch(
    name: Annotated[Literal["oxford", "paris"], typer.Argument(help="The photo set.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Archives that are here already, in the place of published ones."),
    ] = None,
    url: Urls = None,
) -> None:
    """Download Oxford5k or Paris6k and sort the photos into data/<name>/images/<landmark>/.

    A download that broke off goes on when the command is run again. A file or URL that has the name of a
    published archive takes the place of that one; one of another name, and what comes with it, of all.

    \b
    Examples:
      landmarks fetch oxford
      landmarks fetch paris ~/paris_1-v1.tgz
      landmarks fetch paris --url https://mirror.example/paris_all.tgz
    """
    from landmarks import fetching  # here, so that --help is there at once

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    images = Path("data", name, "images")
    if images.exists():
        raise InputError(f"{images}: is there already; delete it to fetch the photos anew")
    sources = fetching.chosen(fetching.ARCHIVES[name], [*(files or []), *(url or [])])
    photos = fetching.fetch(sources, images, DOWNLOADS)
    published, broken = fetching.PHOTOS[name], len(fetching.BROKEN.intersection(photos))
    print(f"{len(photos)} photos in {images}" + (f"; {published} are published" * (len(photos) != published)))
    if broken:
        print(f"{broken} of them were published broken; data/rejected.csv will list them")
    print("They are their owners' photos, under Flickr's terms: do not publish them.")
    if DOWNLOADS.exists():
        print(f"{DOWNLOADS} has the archives and may be deleted.")
    print(f"To let DVC keep the photos: dvc add {images}")


@app.command()
def ground_truth(
    protocol: Annotated[Literal["oxford", "revisited"], typer.Argument(help="Whose files are read.")],
    dataset: Annotated[str, typer.Argument(help="A folder below data/, with the photos.")],
    file: Annotated[
        str | None,
        typer.Argument(help="A .tgz or a folder of text files (oxford), or a gnd_*.pkl (revisited)."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A URL in the place of the published one.")] = None,
) -> None:
    """Make data/<dataset>/ground_truth.csv from the published ground truth of Oxford5k or Paris6k.

    \b
    Examples:
      landmarks ground-truth revisited paris
      landmarks ground-truth oxford mine lists.tgz
    """
    from landmarks import fetching
    from landmarks import ground_truth as truths

    source = file or url or fetching.GROUND_TRUTH.get((protocol, dataset))
    if source is None:
        raise InputError(
            f"dataset: {dataset!r} has no published ground truth, oxford and paris have; name a file or --url"
        )
    read = truths.read_oxford if protocol == "oxford" else truths.read_revisited
    truth = truths.located(fetching.read_from(source, DOWNLOADS, read), Path("data", dataset, "images"))
    path = Path("data", dataset, "ground_truth.csv")
    truths.write(path, truth)
    grades = [grade for judged in truth.values() for grade in judged.values()]
    counts = (f"{grades.count(grade)} {grade}" for grade in truths.GRADES[protocol])
    print(f"{path}: {len(truth)} queries, {', '.join(counts)}")
    print(f"To score by it: split.method=ground_truth and evaluate.protocol={protocol}")
