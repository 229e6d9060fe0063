from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from landmarks.photos.catalog import Photo
from landmarks.training import events

from .conftest import course


def test_events_hold_a_point_an_epoch_and_the_photos(photos: list[Photo], tmp_path: Path):
    made = course(photos, tmp_path / "checkpoints")
    written = events.Events(tmp_path / "runs", "resnet18", "test", made.sample())
    for epoch in made.epochs():
        written.add(epoch)
    written.writer.close()
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("_resnet18_test")
    content = next(folder.iterdir()).read_bytes()
    for tag in (b"Loss/train", b"Loss/val", b"Prec_1/train", b"Prec_5/val", b"learning_rate"):
        assert content.count(tag) == 3
    assert content.count(b"training_photos") == 1


def test_event_files_of_runs_that_begin_together_lie_apart(tmp_path: Path):
    photo = torch.zeros(3, 4, 4, dtype=torch.uint8)
    with ThreadPoolExecutor(4) as pool:
        runs = list(
            pool.map(lambda _: events.Events(tmp_path / "runs", "resnet18", "demo", [photo]), range(8))
        )
    assert len({run.writer.logdir for run in runs}) == len(list((tmp_path / "runs").iterdir())) == 8
    for run in runs:
        run.writer.close()
