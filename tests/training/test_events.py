from pathlib import Path

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
