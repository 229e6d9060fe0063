"""The command `landmarks`: questions to what the pipeline built, without running it."""

import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from glob import escape, glob
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperGroup

from landmarks import __version__, params, tables
from landmarks.asking import cli_datasets
from landmarks.asking.cli_datasets import AsJson, enter_root
from landmarks.errors import InputError, of_file, shown, streams

if TYPE_CHECKING:  # each command imports what it needs, so that --help is there at once
    from landmarks.asking.questions import Answer


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # as pydantic begins it
            raise


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_datasets.app)

MODEL = Path("models/model.safetensors")

Photos = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders, or quoted patterns such as 'data/demo/images/**/00*.jpg'.",
        metavar="PHOTO...",
        show_default=False,
    ),
]
Distance = Annotated[
    params.Distance | None,
    typer.Option(help="L1 Manhattan, L2 Euclidean, L3 cosine. [default: that of params.yaml]"),
]
Rerank = Annotated[
    str | None,
    typer.Option(
        help="one: as retrieved; two: the voted landmark first; others, as in dba+aqe+two. "
        "[default: that of params.yaml]"
    ),
]
Item = TypeVar("Item")
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print one line of JSON for each photo.")]


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"landmarks {__version__}")
        raise typer.Exit


@app.callback()
def landmarks(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Ask the model and the index that `dvc repro` built. Run it in any folder of the repository.

    \b
    Examples:
      landmarks predict data/demo/images/castle_keep/018.jpg
      landmarks query data/demo/images/castle_keep/018.jpg --out answers
    """


@app.command()
def check(
    dataset: Annotated[
        str | None,
        typer.Argument(help="A folder below data/. [default: that of params.yaml]", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look below data/<dataset>/ for what DVC would stop at, hang at or miss.

    Run it before `dvc add` and `dvc exp run`. It names links that lead nowhere, pipes, names that are not
    UTF-8, linked landmarks and the like, and says what to do about each; the exit code is then 1. It warns of
    landmarks whose names are alike. It opens no photo.

    \b
    Examples:
      landmarks check
      landmarks check mine
      landmarks check --json mine
    """
    from landmarks.photos import folders

    enter_root()
    name = (params.load().dataset if dataset is None else dataset).rstrip("/")
    if name in ("", ".", "..") or "/" in name:
        raise InputError(f"dataset: {dataset!r} is not the name of a folder below data/")
    checked = folders.check(name, drawn=name == "demo")
    if as_json:
        print(json.dumps(asdict(checked)))
    else:
        for line in checked.named():
            print(f"error: {line}", file=sys.stderr)
        for warning in checked.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if checked.left_out:
            print(f"{checked.images}: {checked.left_out}")
        print(checked)
    raise typer.Exit(min(len(checked.obstacles), 1))


@app.command()
def predict(photos: Photos, distance: Distance = None, as_json: AsJsonLines = False) -> None:
    """Tell which landmark a photo shows.

    The nearest photos of the index vote. A photo that is farther from all of them than
    evaluate.reject_above resembles no landmark. Photos that do not decode are reported, and the others are
    answered; the exit code is then 1.

    \b
    Examples:
      landmarks predict data/demo/images/castle_keep/018.jpg
      landmarks predict --json data/demo/images/castle_keep 'data/demo/images/**/000.jpg'
    """
    from landmarks.asking.questions import Index

    failed = 0
    for photo, answer in Index.open(params.root()).answer_each(_files(photos), distance, "one"):
        failed += isinstance(answer, InputError)
        _print(photo, answer, as_json, results=False)
    raise typer.Exit(min(failed, 1))


@app.command()
def query(
    photos: Photos,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many results.")] = 5,
    distance: Distance = None,
    rerank: Rerank = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A new folder for a contact sheet of each photo, copies of its results, and results.csv, "
            "where an apostrophe stands before names that a spreadsheet would take for formulas."
        ),
    ] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Find the photos of the index that are most like a photo.

    A photo of the index does not find itself. Photos that do not decode are reported, and the others are
    answered; the exit code is then 1.

    \b
    Examples:
      landmarks query data/demo/images/castle_keep/018.jpg
      landmarks query data/demo/images/castle_keep --top 10 --distance L2 --rerank two
      landmarks query data/demo/images/*/000.jpg --out answers
    """
    from landmarks.asking import copies
    from landmarks.asking.questions import Index

    index = Index.open(params.root())
    if out:
        copies.make_empty(out)
    names = copies.Names("results.csv")
    failed = 0
    rows: list[tuple[object, ...]] = []
    for photo, answer in index.answer_each(_files(photos), distance, rerank, top):
        failed += isinstance(answer, InputError)
        _print(photo, answer, as_json, results=True)
        if out and not isinstance(answer, InputError):
            rows += copies.save(out, names.free(photo.stem), index, photo, answer)
    if out:
        tables.write(out / "results.csv", copies.RESULTS, rows, with_checksum=False)
    raise typer.Exit(min(failed, 1))


@app.command(name="time")
def measure(
    photos: Annotated[int, typer.Option(min=1, help="How many photos of the index are described.")] = 50,
    queries: Annotated[int, typer.Option(min=1, help="How many queries are answered.")] = 200,
    distance: Distance = None,
    rerank: Rerank = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast photos are described and queries are answered.

    Photos are described one at a time and in batches. The table says how many are done per second, and how
    long one takes: the median, and the time that 95 % stay below. A query is the descriptor of a photo of the
    index.

    \b
    Examples:
      landmarks time
      landmarks time --photos 200 --rerank two --json
    """
    from landmarks.asking.questions import Index

    index = Index.open(params.root())
    files = [index.root / index.photos[row].image_path for row in _spread(len(index.photos), photos)]
    size = index.params.extract.batch_size
    batches = [files[start : start + size] for start in range(0, len(files), size)]
    rows = _spread(len(index.photos), queries)
    index.answer(index.describe(files[:1]), distance, rerank)  # reads the model and compiles the search
    timings = {
        "photo": _timed(lambda photo: index.describe([photo]), files),
        "batch": _timed(index.describe, batches, len(files) / len(batches)),
        "query": _timed(
            lambda row: index.answer(
                index.features[[row]], distance, rerank, paths=[index.photos[row].image_path]
            ),
            rows,
        ),
    }
    if as_json:
        print(json.dumps(timings))
        return
    print(f"{'':8}{'per second':>12}{'median ms':>12}{'95 % ms':>12}")
    for name, timing in timings.items():
        print(f"{name:8}" + "".join(f"{value:12.2f}" for value in timing.values()))
    print(f"a batch has {size} photos")


@app.command()
def evaluate_model(
    split: Annotated[
        Literal["train", "val", "test", "index"], typer.Option(help="The part whose photos are classified.")
    ] = "val",
    model: Annotated[
        Path | None,
        typer.Option(help=f"A model made with model=finetuned. [default: {MODEL.as_posix()}]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a fine-tuned model as a classifier.

    Prints its loss, Prec@1 and Prec@5. After metric learning, the nearest class mean classifies, without a
    loss.

    \b
    Example:
      landmarks evaluate-model --split test
    """
    [chosen] = enter_root(str(model or params.root() / MODEL))
    options = params.load()
    from landmarks.describing import describers
    from landmarks.photos import catalog
    from landmarks.training import loop

    photos = catalog.read_photos(Path("data/splits", f"{split}.csv"))
    figures = loop.evaluate(describers.read(Path(chosen)), photos, options.finetuned)
    if as_json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:<8}{value:.4f}" for name, value in figures.items()))


@app.command()
def summary(as_json: AsJson = False) -> None:
    """Tell what the pipeline reached, and what to try next.

    \b
    Examples:
      landmarks summary
      landmarks summary --json
    """
    from landmarks.scoring import reports

    enter_root()
    rerank = "one" if params.load().rerank == "two" else "two"
    report = reports.read(Path("reports"))
    right_first = sorted(report.queries, key=lambda query: query.predicted != query.photo.class_image)
    photos = (query.photo.image_path for query in right_first)
    photo = next(filter(os.path.isfile, photos), None)
    if as_json:
        print(json.dumps({"metrics": report.metrics, "photo": photo}))
        return
    figures = [
        f"{name} {value:.3f}"
        for name, value in report.metrics.items()
        if name == "accuracy" or (name.startswith("map") and not name.endswith(("_low", "_high")))
    ]
    counts = [f"{name} {report.metrics[name]}" for name in ("queries", "index") if name in report.metrics]
    print(f"Reached: {', '.join(figures + counts)} (reports/metrics.json)")
    print("To look at it: dvc plots show, landmarks serve, or the file reports/gallery/index.html")
    asked = f"landmarks predict {shlex.quote(photo)}, or " if photo else ""
    print(f"To go on: {asked}dvc exp run -S rerank={rerank}")


@app.command()
def serve(
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen at; 0.0.0.0 for all of this machine, :: for all by IPv6 only."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that requests may be addressed to; repeat it for more. "
            "By default those of this machine, or any where --host is no loopback address."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a web page that answers photos and shows the evaluation.

    The command prints the address of the page; /api below it describes the API.

    A photo may have 20 MB and 50 megapixels, and must arrive within 60 seconds. There may be 1000 connections
    at a time, or fewer where fewer files may be open (ulimit -n).

    \b
    Examples:
      landmarks serve
      landmarks serve --port 8080
      landmarks serve --host 0.0.0.0 --allow-host photos.example.org
    """
    from landmarks.asking.questions import Index
    from landmarks.asking.serving import server

    if not all(map(str.strip, allow_host or [])):
        raise InputError("--allow-host: '' is no name; name a host, or leave the option out")
    index = Index.open(params.root())
    listening = server.listen(host, port)
    hosts = frozenset(map(str.lower, allow_host)) if allow_host else server.hosts_of(listening, host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    if as_json:
        print(json.dumps({"url": address}), flush=True)
    else:
        alone = "IPv6 alone; " * server.ipv6_alone(listening)
        print(f"{len(index.photos)} photos at {address} ({alone}stop with Ctrl-C)", flush=True)
    server.serve(index, listening, hosts)


def main() -> None:
    """Run the command; an `InputError` becomes one line and exit code 1."""
    try:
        with streams():
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal cannot show
            app()
    except InputError as error:
        sys.exit(f"error: {shown(error)}")
    except OSError as error:
        sys.exit(f"error: {shown(of_file(error))}")


def _files(photos: list[str]) -> list[Path]:
    """The files that the arguments name; one that names none stays, and is reported like a broken photo."""
    from landmarks.photos.folders import visible_files

    found: list[Path] = []
    for photo in photos:
        # A name that exists may hold what means something in a pattern.
        for path in glob(escape(photo)) or sorted(glob(photo, recursive=True)) or [photo]:
            folder = os.path.isdir(path)  # noqa: PTH112, which raises where it may not look
            files = sorted(visible_files(Path(path))) if folder else [Path(path)]
            if not files:
                raise InputError(f"{path}: no files in this folder")
            found += files
    return found


def _print(photo: Path, answer: "Answer | InputError", as_json: bool, results: bool) -> None:
    from landmarks.photos.folders import escaped, printable

    if as_json:
        if isinstance(answer, InputError):
            values: dict[str, object] = {"error": str(answer)}
        else:
            values = answer.as_json()
            if not results:
                del values["results"]
        print(json.dumps({"photo": printable(photo), **values}))
    elif isinstance(answer, InputError):
        print(f"error: {shown(answer)}", file=sys.stderr)
    else:
        # A name that ends a line, or moves the cursor, could pass for an answer.
        votes = ", ".join(f"{escaped(name)} {count}" for name, count in answer.votes.items()) or "none"
        print(f"{escaped(str(photo))}: {escaped(answer.told)} (votes: {votes}; nearest {answer.nearest:.4f})")
        for result in answer.results if results else []:
            found = result.photo
            names = f"{escaped(found.class_image)}  {escaped(found.image_path)}"
            print(f"{result.rank:4}  {result.distance:.4f}  {names}")


def _spread(total: int, wanted: int) -> list[int]:
    """`wanted` numbers below `total`, evenly spread; some come more than once if `total` is too small."""
    return [place * total // wanted for place in range(wanted)]


def _timed(action: Callable[[Item], object], items: Sequence[Item], each: float = 1) -> dict[str, float]:
    """How often per second `action` is done to `items`, each of them `each` things, and how long it takes."""
    seconds = []
    for item in items:
        start = perf_counter()
        action(item)
        seconds.append(perf_counter() - start)
    seconds.sort()
    median, high = (1000 * seconds[min(int(share * len(seconds)), len(seconds) - 1)] for share in (0.5, 0.95))
    return {"per_second": each * len(seconds) / sum(seconds), "p50_ms": median, "p95_ms": high}
