"""`landmarks check`, and the stages `check` and `create_csv` where they judge folders and names."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from landmarks.asking.cli import app
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo, read_catalog
from landmarks.photos.folders import NAMED, NOT_ASCII
from stages import check, create_csv

ROOT = Path(__file__).parents[2]
COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    choose("mine")


def choose(dataset, **changes):
    text = COMMITTED.replace("dataset: demo", f'dataset: "{dataset}"')
    for name, value in changes.items():
        assert f"{name}: false" in text
        text = text.replace(f"{name}: false", f"{name}: {value}")
    Path("params.yaml").write_text(text, encoding="utf-8")


def put(*names):
    for name in names:
        Path("data", name).parent.mkdir(parents=True, exist_ok=True)
        Path("data", name).touch()


def ask(*arguments):
    done = CliRunner().invoke(app, ["check", *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_dataset_is_that_of_the_parameters_or_the_one_named():
    put("mine/images/a/1.jpg", "mine/images/a/2.jpg", "2024/images/b/1.jpg", "我的 照片/images/c/1.jpg")
    assert ask() == (0, "data/mine/images: 2 files in 1 landmark folder, nothing in the way\n", "")
    assert ask("2024/") == (0, "data/2024/images: 1 file in 1 landmark folder, nothing in the way\n", "")
    assert ask("我的 照片")[1].startswith("data/我的 照片/images: 1 file in 1 landmark folder, nothing")
    for name in ("data/mine", "..", "", "/"):
        with pytest.raises(InputError, match=r"^dataset: '.*' is not the name of a folder below data/$"):
            ask(name)


def test_the_demo_passes_before_it_is_drawn():
    choose("demo")
    assert ask() == (0, "data/demo/images: not drawn yet, nothing in the way\n", "")
    check.main()


def test_photos_may_be_missing_of_the_demo_alone():
    for arguments in ((), ("mine",), ("demos",)):
        code, _, err = ask(*arguments)
        assert (code, "no such folder" in err) == (1, True)
    assert ask("demo")[0] == 0
    with pytest.raises(InputError, match=r"^data/mine/images: no such folder"):
        check.main()


@pytest.mark.parametrize("count", [1, NAMED, NAMED + 1, 300])
def test_what_is_in_the_way_is_named_up_to_a_number_and_then_counted(count):
    put("mine/images/a/1.jpg")
    for number in range(count):
        Path(f"data/mine/images/a/{number:03}.png").symlink_to("gone")
    code, out, err = ask()
    assert code == 1
    things = f"{count} thing{'s' * (count > 1)}"
    assert out == f"data/mine/images: {count + 1} files in 1 landmark folder, {things} in the way\n"
    lines = err.splitlines()
    assert len([line for line in lines if line.startswith("error: data/mine/images/a/")]) == min(count, NAMED)
    assert lines[NAMED:] == ([f"error: and {count - NAMED} more"] if count > NAMED else [])
    assert len(json.loads(ask("--json")[1])["obstacles"]) == count
    with pytest.raises(InputError) as caught:
        check.main()
    assert str(caught.value).splitlines() == [line.removeprefix("error: ") for line in lines]


def test_warnings_do_not_stop_and_json_has_all():
    put("mine/images/a/1.jpg", "mine/images/A\u200b/1.jpg", "mine/images/@eaDir/1.jpg")
    code, out, err = ask("mine")
    warning = (
        "data/mine/images: 'A\\u200b' = 'A\\u200b' (1 file) and 'a' (1 file) are alike, but landmarks of "
        "their own unless create_csv.merge_alike is true"
    )
    left_out = "left out, as hidden or made by a system: @eaDir/ (1)"
    told = "data/mine/images: 2 files in 2 landmark folders, nothing in the way"
    assert (code, out, err) == (0, f"data/mine/images: {left_out}\n{told}\n", f"warning: {warning}\n")
    assert json.loads(ask("--json", "mine")[1]) == {
        "images": "data/mine/images",
        "files": 2,
        "landmarks": 2,
        "obstacles": {},
        "warnings": [warning],
        "left_out": left_out,
    }


def test_a_name_that_is_not_utf8_is_named_with_escapes():
    put("mine/images/a/1.jpg")
    try:
        put(os.fsdecode(b"mine/images/\xff/caf\xe9.jpg"), os.fsdecode(b"mine/images/a/.\xe4"))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    assert ask()[2].splitlines() == [
        f"error: data/mine/images/{name}: its name is not UTF-8, at which DVC stops; rename it"
        for name in ("a/.\\xe4", "\\xff", "\\xff/caf\\xe9.jpg")
    ]


def test_the_stage_refuses_the_same():
    put("mine/images/a/1.jpg")
    check.main()
    os.mkfifo("data/mine/images/a/pipe")
    Path("data/mine/images/b").symlink_to("a")
    with pytest.raises(InputError) as caught:
        check.main()
    assert ask()[2] == "".join(f"error: {line}\n" for line in str(caught.value).splitlines())
    assert len(str(caught.value).splitlines()) == 2


def test_neither_imports_what_is_slow():
    put("mine/images/a/1.jpg")
    code = (
        "import sys; sys.argv[1:] = ['check']\nfrom stages import check\ncheck.main()\n"
        "from landmarks.asking.cli import main\ntry: main()\nexcept SystemExit: print(*sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert "landmarks.photos.folders" in modules
    assert not modules & {"torch", "pandas", "numpy", "PIL", "cv2", "h5py", "scipy", "dvc"}


def photos(counts, rng):
    made = [
        Photo(f"data/mine/images/{name}/{number}.jpg", name)
        for name in counts
        for number in range(counts[name])
    ]
    return [made[place] for place in rng.permutation(len(made))]


@pytest.mark.parametrize("seed", range(3))
def test_alike_landmarks_become_the_one_of_most_photos_if_so_set(seed, caplog):
    caplog.set_level(logging.INFO)
    counts = {"Sapa": 2, "sapa ": 3, "ＳＡＰＡ": 1, "Hu\u1ebf": 2, "Hue\u0302\u0301": 2, "Hue": 4, "sa-pa": 1}
    given = photos(counts, np.random.default_rng(seed))
    merged = create_csv.named(given, merge=True)
    assert [photo.image_path for photo in merged] == [photo.image_path for photo in given]
    classes = Counter(photo.class_image for photo in merged)
    assert classes == {"sapa ": 6, "Hue\u0302\u0301": 4, "Hue": 4, "sa-pa": 1}
    hue = "'Hue\u0302\u0301' = 'Hue\\u0302\\u0301' (2 photos) and 'Hu\u1ebf' = 'Hu\\u1ebf' (2 photos)"
    sapa = "'sapa ' (3 photos), 'Sapa' (2 photos) and 'ＳＡＰＡ' = '\\uff33\\uff21\\uff30\\uff21' (1 photo)"
    assert caplog.messages == [
        f"one landmark, named 'Hue\\u0302\\u0301': {hue}",
        f"one landmark, named 'sapa ': {sapa}",
    ]
    caplog.clear()
    assert create_csv.named(given, merge=False) == given
    assert caplog.messages == [
        f"alike: {names}; create_csv.merge_alike: true makes them one landmark" for names in (hue, sapa)
    ]


@pytest.mark.parametrize(
    ("merge", "classes"), [("false", ["A", "a\u00a0"]), ("true", ["a\u00a0", "a\u00a0"])]
)
def test_the_stage_writes_the_names_that_are_set(make_photo, merge, classes):
    choose("mine", merge_alike=merge)
    for seed, name in enumerate(["A/1.jpg", "a\u00a0/2.jpg", "a\u00a0/3.jpg"]):
        make_photo(Path("data/mine/images", name), seed)
    create_csv.main()
    assert [photo.class_image for photo in read_catalog(Path("data/catalog.csv"))[0]] == [*classes, "a\u00a0"]


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("đường", "đường"),
        ("数据/repo", "数据/repo"),
        ("caf\u00e9 \u200b", "caf\u00e9 \\u200b"),
        ("ﬁ/a/b", "ﬁ/a/b"),
        (os.fsdecode(b"\xff"), "\\xff"),
        ("my photos", None),
        ("~$#", None),
    ],
)
def test_a_path_below_which_dvc_runs_no_copies_is_warned_of(tmp_path, monkeypatch, caplog, place, shown):
    try:
        (tmp_path / place).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    monkeypatch.chdir(tmp_path / place)
    choose("mine")
    put("mine/images/a/1.jpg")
    code, _, err = ask()
    check.main()
    warnings = [f"{tmp_path.resolve()}/{shown}: {NOT_ASCII}"] if shown else []
    assert (code, err.splitlines()) == (0, [f"warning: {warning}" for warning in warnings])
    assert caplog.messages == json.loads(ask("--json")[1])["warnings"] == warnings


COPIES = [".dvc/tmp/exps/tmpy_7h15c5", ".dvc/tmp/exps/standalone/tmpkby4o025"]


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize(
    ("dataset", "path"),
    [("mine", "data/mine/images"), ("2024", "data/2024/images"), ("我的 照片", "'data/我的 照片/images'")],
)
def test_photos_that_a_queued_experiment_lacks_are_to_be_committed(
    tmp_path, monkeypatch, copy, dataset, path
):
    choose(dataset)
    with pytest.raises(InputError) as outside:
        check.main()
    (tmp_path / copy).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / copy)
    choose(dataset)
    with pytest.raises(InputError) as inside:
        check.main()
    track = (
        f"dvc add {path} && git add {path[:-1]}.dvc' "
        if "'" in path
        else f"dvc add {path} && git add {path}.dvc "
    )
    assert str(outside.value).startswith(
        f"data/{dataset}/images: no such folder; expected one folder of photos"
    )
    assert str(inside.value) == (
        f"{outside.value}; DVC runs this experiment in a copy of what Git and DVC track, so first: {track}"
        "&& git commit -m 'Add photos'"
    )
    put(f"{dataset}/images/a/1.jpg")
    check.main()


@pytest.mark.parametrize("copy", COPIES)
def test_a_ground_truth_that_a_queued_experiment_lacks_is_to_be_committed(tmp_path, monkeypatch, copy):
    path = Path("data/mine/ground_truth.csv")
    with pytest.raises(InputError, match=r"docs/ground-truth\.md says how to write one$"):
        create_csv.read_truth(path)
    (tmp_path / copy).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / copy)
    with pytest.raises(InputError, match=r"so first: git add data/mine/ground_truth\.csv && git commit$"):
        create_csv.read_truth(path)
