"""A random bit of what a stage is handed is flipped: the stage tells of it, or its outputs are the same."""

import random
from itertools import cycle, islice
from pathlib import Path

import pytest

from landmarks.errors import InputError
from landmarks.scoring import reports

from .inprocess import SMALL, contents, draw_photos, run, stages, write_params

FLIPS = 150  # for each model


def flip(path, chance):
    content = bytearray(path.read_bytes())
    place = chance.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def told_by_the_server(evaluation):
    """What it says of the reports, if they are no longer the `evaluation`."""
    try:
        assert reports.read(Path("reports")) == evaluation
    except InputError as error:
        return f"error: {error}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("model", ["finetuned", "vlad"])
def test_a_flipped_bit_is_told_of_or_changes_nothing(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    draw_photos(Path("data/mine/images"))
    write_params(**SMALL | {"model": model})
    whole, handed = {}, []
    for stage in stages(model, "mine"):
        handed += [(stage, dep) for dep in stage.deps if Path(dep) in whole]
        assert run(stage) is None
        whole |= contents(stage.outs)
    evaluation = reports.read(Path("reports"))
    handed += [(None, f"reports/{table}{end}") for table in reports.HEADERS for end in ("", ".xxh")]
    assert len({dep for _, dep in handed}) == 27

    chance, noticed = random.Random(model), 0
    for stage, dep in islice(cycle(handed), FLIPS):
        flip(Path(dep), chance)
        told, outs = (run(stage), stage.outs) if stage else (told_by_the_server(evaluation), [])
        if told:
            noticed += 1
            assert told.startswith("error: ")
            assert dep in told
        else:
            now = contents(outs)
            assert now == {path: whole[path] for path in now}, (stage, dep)
        for path, content in whole.items():
            if any(path.is_relative_to(changed) for changed in (dep, *outs)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    assert noticed > 0.8 * FLIPS
