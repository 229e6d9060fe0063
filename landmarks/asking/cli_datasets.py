"""The commands of `landmarks` that bring published photos and their ground truth into `data/`."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from landmarks import params
from landmarks.errors import InputError

app = typer.Typer()

DOWNLOADS = Path("downloads")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Urls = Annotated[list[str] | None, typer.Option(help="A URL to use instead of a published one.")]


def enter_root(*paths: str) -> list[str]:
    """Go to the root of the repository; returns `paths` or URLs as they are to be named from there."""
    root = params.root()
    if root == Path():
        return list(paths)
    from landmarks.photos.fetching import is_url

    absolute = [path if is_url(path) else os.path.abspath(path) for path in paths]  # noqa: PTH100
    os.chdir(root)
    return absolute


@app.command()
def fetch(
    name: Annotated[Literal["oxford", "paris"], typer.Argument(help="The photo set.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Archives that are here already, to use instead of published ones."),
    ] = None,
    url: Urls = None,
    as_json: AsJson = False,
) -> None:
    """Download Oxford5k or Paris6k and sort the photos into data/<name>/images/<landmark>/.

    A download that broke off goes on when the command is run again. A file or URL with the name of a
    published archive takes the place of that archive; if any has another name, all that are given take the
    place of all archives.

    \b
    Examples:
      landmarks fetch oxford
      landmarks fetch paris ~/paris_1-v1.tgz
      landmarks fetch paris --url https://mirror.example/paris_all.tgz
    """
    from landmarks.photos import fetching, folders  # here, so that --help is there at once

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    given = [*enter_root(*(files or [])), *(url or [])]
    images = Path("data", name, "images")
    if images.exists():
        raise InputError(f"{images}: is there already; delete it to fetch the photos anew")
    sources = fetching.chosen(fetching.ARCHIVES[name], given)
    photos = fetching.fetch(sources, images, DOWNLOADS, fetching.Bounds.of(name))
    published, broken = fetching.PHOTOS[name], len(fetching.BROKEN.intersection(photos))
    if as_json:
        told = {"images": images.as_posix(), "photos": len(photos), "published": published, "broken": broken}
        print(json.dumps(told))
        return
    print(f"{len(photos)} photos in {images}" + (f"; {published} are published" * (len(photos) != published)))
    if broken:
        print(f"{broken} of them were published broken; data/rejected.csv will list them")
    print("They are their owners' photos, under Flickr's terms: do not publish them.")
    if DOWNLOADS.exists():
        print(f"{DOWNLOADS} has the archives and may be deleted.")
    print(f"To let DVC keep the photos: {folders.tracking(images.as_posix())}")


@app.command()
def ground_truth(
    protocol: Annotated[Literal["oxford", "revisited"], typer.Argument(help="Whose files are read.")],
    dataset: Annotated[str, typer.Argument(help="A folder below data/, with the photos.")],
    file: Annotated[
        str | None,
        typer.Argument(help="A .tgz or a folder of text files (oxford), or a gnd_*.pkl (revisited)."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A URL to use instead of the published one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make data/<dataset>/ground_truth.csv from the published ground truth of Oxford5k or Paris6k.

    \b
    Examples:
      landmarks ground-truth revisited paris
      landmarks ground-truth oxford mine lists.tgz
    """
    from landmarks.photos import fetching
    from landmarks.photos import ground_truth as truths

    given = enter_root(*([file] if file else []))
    source = next(iter(given), url) or fetching.GROUND_TRUTH.get((protocol, dataset))
    if source is None:
        raise InputError(
            f"dataset: {dataset!r} has no published ground truth, oxford and paris have; name a file or --url"
        )
    read = truths.read_oxford if protocol == "oxford" else truths.read_revisited
    truth = truths.located(fetching.read_from(source, DOWNLOADS, read), Path("data", dataset, "images"))
    path = Path("data", dataset, "ground_truth.csv")
    truths.write(path, truth, with_checksum=False)
    grades = [grade for judged in truth.values() for grade in judged.values()]
    counts = {grade: grades.count(grade) for grade in truths.GRADES[protocol]}
    if as_json:
        print(json.dumps({"ground_truth": path.as_posix(), "queries": len(truth), **counts}))
        return
    told = (f"{count} {grade}" for grade, count in counts.items())
    print(f"{path}: {len(truth)} queries, {', '.join(told)}")
    print(f"To score by it: split.method=ground_truth and evaluate.protocol={protocol}")
