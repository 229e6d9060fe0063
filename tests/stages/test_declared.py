"""What `dvc.yaml` declares is what the stages read, and all of it is read."""

from pathlib import Path

from .inprocess import (
    SMALL,
    contents,
    draw_photos,
    judge,
    leaves_of,
    opened,
    put,
    recorded,
    run,
    stages,
    write_params,
)

JUDGED = {"method": "ground_truth", "train": 0.6, "val": 0.4, "test": 0, "index": 0}
SCENARIOS = [
    {"model": "finetuned", "rerank": "dba+aqe+alpha_qe+k_reciprocal+two"},
    {
        "model": "pretrained",
        "rerank": "diffusion",
        "split": JUDGED,
        "evaluate": {"protocol": "revisited"},
    },
    {
        "model": "vlad",
        "rerank": "geometric",
        "split": JUDGED,
        "evaluate": {"protocol": "oxford", "queries_in_index": True},
    },
]
UNDECLARED = {"check": ["data/mine"]}
"""What DVC itself could not read where the stage has something to say of it."""
TO_TELL = {
    "model": {"dataset"},  # the name of event files
    "retrieve": {"extract.batch_size"},  # by which left-overs are known
    "rerank": {"extract.batch_size"},
}
"""What is read beyond what is declared, and shapes no output."""
FOR_DVC = {"check": {"model"}, "model": {"model"}}
"""What is declared and not read: it is in the command."""
OF_SECTIONS = {
    f"extract@{part}": {"extract.whitening", "extract.dimensions", "extract.power"}
    for part in ("index", "test")
}
"""What is declared and not read, as a part of a section of which the rest is."""
LASTING = ("models/checkpoints", "runs")
"""Where training keeps what outlasts it."""


def test_stages_read_and_write_what_they_declare(tmp_path, monkeypatch):
    seen = []
    for number, scenario in enumerate(SCENARIOS):
        folder = tmp_path / str(number)
        draw_photos(folder / "data/mine/images")
        monkeypatch.chdir(folder)
        write_params(**SMALL | scenario)
        if "split" in scenario:
            judge("mine", scenario["evaluate"]["protocol"])
        for stage in stages(scenario["model"], "mine"):
            box = folder / stage.name
            put([*stage.deps, *UNDECLARED.get(stage.name, []), "params.yaml"], folder, box)
            monkeypatch.chdir(box)
            before = contents(["."])
            with recorded() as read, opened() as paths:
                assert run(stage) is None, (number, stage.name)  # so it needs no other files
            assert read - leaves_of(stage) <= TO_TELL.get(stage.name, set()), stage.name
            written = contents(["."]).keys() - before.keys()
            assert [out for out in stage.outs if not any(path.is_relative_to(out) for path in written)] == []
            places = [*stage.outs, *LASTING]
            asked = [Path(path) for path in paths if path.endswith(".xxh")]  # there or not
            assert [
                path.as_posix() for path in asked if path.as_posix() not in [*stage.deps, *stage.outs]
            ] == []
            assert [path for path in written if not any(path.is_relative_to(place) for place in places)] == []
            put(stage.outs, box, folder)
            seen.append((stage, read, paths))
    for name in {stage.name for stage, *_ in seen}:
        runs = [(stage, read, paths) for stage, read, paths in seen if stage.name == name]
        unread = (
            set().union(*(leaves_of(stage) for stage, *_ in runs)).difference(*(read for _, read, _ in runs))
        )
        assert unread == FOR_DVC.get(name, set()) | OF_SECTIONS.get(name, set()), name
        files = set().union(*(paths for *_, paths in runs))
        for dep in runs[0][0].deps:
            assert any(Path(path).is_relative_to(dep) for path in files), (name, dep)
