"""Fine-tune the trunk as a classifier of the landmarks."""

import os
import sys
from dataclasses import astuple
from pathlib import Path

from landmarks import catalog, describers, params
from landmarks.errors import run

CURVE = Path("reports/training.csv")


def main() -> None:
    options = params.load()
    train, val = (catalog.read_photos(Path("data/splits", f"{part}.csv")) for part in ("train", "val"))
    from landmarks import training, trunks  # takes seconds to import, so bad parameters are told before

    with training.processes() as writes:
        recipe, seed = options.finetuned, options.seed
        trunk = trunks.pretrained(options.backbone, options.weights, recipe.image_size, "avgpool", seed)
        shaping = {"backbone": options.backbone, "weights": options.weights, "seed": seed}
        name = training.identity(train, val, shaping | recipe.shaping(), options.weights)
        course = training.Training(trunk, train, val, recipe, seed, Path("models/checkpoints", name))
        course.resume()
        if not writes:
            for _ in course.epochs():
                pass
            course.result()
            return
        events = training.Events(Path("runs"), options.backbone, options.dataset, course.sample())
        curve = []
        for epoch in course.epochs():
            events.add(epoch)
            curve.append(astuple(epoch))
        catalog.write_rows(CURVE, training.COLUMNS, curve)
        describers.write(Path("models/model.safetensors"), course.result())


def under_torchrun() -> None:
    """Start this script again in NPROC processes, where that is set."""
    count = os.environ.get("NPROC", "1")
    if count != "1" and "LOCAL_RANK" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
        os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])


if __name__ == "__main__":
    under_torchrun()
    run(main)
