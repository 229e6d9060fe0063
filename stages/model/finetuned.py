"""Fine-tune the trunk on the landmarks."""

import logging
import os
import sys
from dataclasses import astuple
from pathlib import Path

from landmarks import params, tables
from landmarks.describing import describers
from landmarks.errors import InputError, run
from landmarks.photos import catalog

CURVE = Path("reports/training.csv")
MODULE = "stages.model.finetuned"


def main() -> None:
    options = params.load()
    train, val = (catalog.read_photos(Path("data/splits", f"{part}.csv")) for part in ("train", "val"))
    from landmarks.describing import trunks  # takes seconds to import, so bad parameters are told before
    from landmarks.training import checkpoints, events, loop, processes

    with processes.processes() as writes:
        recipe, seed = options.finetuned, options.seed
        trunk = trunks.pretrained(
            options.backbone,
            options.weights,
            seed=seed,
            layer="avgpool",
            learn_gem_p=recipe.learn_gem_p,
            **recipe.describing(),
        )
        shaping = {"backbone": options.backbone, "weights": options.weights, "seed": seed}
        name = checkpoints.identity(train, val, shaping | recipe.shaping(), options.weights)
        folder, runs = lasting() / "models/checkpoints" / name, lasting() / "runs"
        course = loop.Training(trunk, train, val, recipe, seed, folder)
        with checkpoints.alone(folder):
            course.resume()
            if not writes:
                for _ in course.epochs():
                    pass
                course.result()
                return
            writer = events.Events(runs, options.backbone, options.dataset, course.sample())
            curve = []
            for epoch in course.epochs():
                writer.add(epoch)
                curve.append(astuple(epoch))
            trained = course.result()
        tables.write(CURVE, events.COLUMNS, curve)
        model = describers.whitened(trained, train, **options.extract.whitened())
        describers.write(Path("models/model.safetensors"), model)


def lasting() -> Path:
    """Where checkpoints and event files outlast an experiment that was interrupted.

    `dvc exp run --temp` and `--queue` work in a copy of the repository, below its .dvc/tmp/exps, which DVC
    removes however it ends. So that is the repository itself, or the folder that LANDMARKS_STATE names.
    """
    copies = (folder for folder in Path.cwd().parents if folder.parts[-3:] == (".dvc", "tmp", "exps"))
    repository = next((folder.parents[2] for folder in copies), Path())
    return repository / os.environ.get("LANDMARKS_STATE", "")


def processes() -> int:
    """How many processes train: NPROC, or 1 in those that torchrun has started."""
    count = os.environ.get("NPROC") or "1"
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"NPROC: {count!r} is not a number of processes, 1 or more")
    return 1 if "LOCAL_RANK" in os.environ else int(count)


def under_torchrun(count: int) -> None:
    """Run this script in `count` processes; what goes wrong is told by the first, not by torchrun."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(["--standalone", "--nproc-per-node", str(count), "--local-ranks-filter", "0", "-m", MODULE])
    except ChildFailedError:
        sys.exit(1)
    except SignalException as signal:
        sys.exit(128 + signal.sigval)


def start() -> None:
    count = processes()
    if count > 1:
        under_torchrun(count)
    else:
        main()


if __name__ == "__main__":
    run(start)
