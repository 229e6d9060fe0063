"""The command `landmarks`: questions to what the pipeline built, without running it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from landmarks import cli_datasets, params
from landmarks.errors import InputError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(cli_datasets.app)

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


def main() -> None:
    """Run the command; an `InputError` becomes one line and exit code 1."""
    try:
        app()
    except InputError as error:
        sys.exit(f"error: {error}")
