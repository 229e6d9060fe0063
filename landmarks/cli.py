"""The command `landmarks`: questions to what the pipeline built, without running it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from landmarks import params
from landmarks.errors import InputError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

MODEL = Path("models/model.safetensors")


@app.callback()
def landmarks() -> None:
    """Ask the model and the index that `dvc repro` built. Run it in the root of the repository."""


@app.command()
def evaluate_model(
    split: Annotated[
        Literal["train", "val", "test", "index"], typer.Option(help="The part whose photos are classified.")
    ] = "val",
    model: Annotated[Path, typer.Option(help="A model made with model=finetuned.")] = MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Loss, Prec@1 and Prec@5 of a fine-tuned model as a classifier.

    Example: landmarks evaluate-model --split test
    """
    options = params.load()
    from landmarks import catalog, describers, training  # seconds, which --help need not wait for

    photos = catalog.read_photos(Path("data/splits", f"{split}.csv"))
    figures = training.evaluate(describers.read(model), photos, options.finetuned)
    if as_json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:<8}{value:.4f}" for name, value in figures.items()))


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 for all of them.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that requests may be addressed to; repeat it for more. "
            "By default those of this machine, or any where --host is no loopback address."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as JSON.")] = False,
) -> None:
    """Serve a web page that answers photos from the index and shows the evaluation.

    Example: landmarks serve --port 8080
    """
    from landmarks import asking, serving

    index = asking.Index.open()
    listening = serving.listen(host, port)
    hosts = frozenset(map(str.lower, allow_host)) if allow_host else serving.hosts_of(listening, host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    if as_json:
        print(json.dumps({"url": address}), flush=True)
    else:
        print(f"{len(index.photos)} photos at {address} (stop with Ctrl-C)", flush=True)
    serving.serve(index, listening, hosts)


def main() -> None:
    """Run the command; an `InputError` becomes one line and exit code 1."""
    try:
        app()
    except InputError as error:
        sys.exit(f"error: {error}")
