import csv
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import pytest
from PIL import Image

from landmarks.asking.copies import RESULTS, Names, save
from landmarks.asking.questions import Answer, Index, Result
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.photos.folders import printable
from landmarks.scoring.measures import NO_CLASS


def test_out_has_a_sheet_the_results_and_a_table_of_them(ask, built, tmp_path):
    out = tmp_path / "new" / "answers"
    other = tmp_path / "0.png"
    other.write_bytes((built / "queries/2.png").read_bytes())
    code, _, _ = ask("query", "queries/0.png", other, tmp_path / "gone", "--top", 2, "--out", out)
    assert code == 1
    index = Index.open(built)
    answers = index.answer(index.describe([built / "queries/0.png", other]), top=2)
    for name, answer in zip(["0", "0 (2)"], answers, strict=True):
        with Image.open(out / f"{name}.jpg") as sheet:
            assert sheet.format == "JPEG"
        copies = {
            f"{result.rank:02} {result.photo.class_image} {Path(result.photo.image_path).name}": result
            for result in answer.results
        }
        assert {path.name for path in (out / name).iterdir()} == set(copies)
        for copy, result in copies.items():
            assert (out / name / copy).read_bytes() == (built / result.photo.image_path).read_bytes()
    assert {path.name for path in out.iterdir()} == {"0", "0 (2)", "0.jpg", "0 (2).jpg", "results.csv"}
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        (path, a, r)
        for path, a in zip(["queries/0.png", str(other)], answers, strict=True)
        for r in a.results
    ]
    for row, (path, answer, result) in zip(rows, expected, strict=True):
        assert row["query_path"] == path
        assert row["predicted_class"] == answer.landmark
        assert (row["image_path"], row["class_image"]) == result.photo[:2]
        assert int(row["rank"]) == result.rank
        assert float(row["distance"]) == pytest.approx(result.distance, rel=1e-5)


def test_out_overwrites_nothing(ask, tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        ask("query", "queries/0.png", "--out", tmp_path)
    with pytest.raises(InputError, match="cannot be made"):
        ask("query", "queries/0.png", "--out", tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


# What each of the photos is called in a folder of answers, those before it being there.
NAMED = {
    "1": "1",
    "sub/1": "1 (2)",
    "1 (2)": "1 (2) (2)",
    "results.csv": "results.csv (2)",
    "Results.CSV": "Results.CSV (3)",
    "bridge": "bridge",
    "bridge.jpg": "bridge.jpg (2)",  # whose folder has the name of the sheet of the one before
    "tower.jpg": "tower.jpg",
    "tower": "tower (2)",  # whose sheet has the name of the folder of the one before
    "IMG_1": "IMG_1",
    "img_1": "img_1 (2)",
    "Hu\u1ebf": "Hu\u1ebf",
    "hue\u0302\u0301": "hue\u0302\u0301 (2)",
    "Straße": "Straße",
    "STRASSE": "STRASSE (2)",
    ".hidden": "_hidden",
    ".results.csv.tmp": "_results.csv.tmp",
    "..": "_",
    " ": "_ (2)",
    "end. .": "end",
    "end": "end (2)",
    "nul": "nul_",
    "Com1.tar": "Com1_.tar",
    "console": "console",
    "12:30?": "12_30_",
    "two\nlines": "two_lines",
    "caf\udce9": "caf_xe9",  # not UTF-8
    "故" * 85: "故" * 83,
    "故" * 84: "故" * 76 + " (2)",
    "a" + "🗿" * 63: "a" + "🗿" * 62,
    "b" * 255: "b" * 251,
    "b" * 252: "b" * 230 + " (2)",
    "c" * 300 + ".tar": "c" * 247 + ".tar",
    "d" * 250 + " ." * 2: "d" * 250,
    " " * 252 + ".x": "_" + ".x",
}


def test_answers_have_names_that_every_file_system_tells_apart():
    names = Names("results.csv")
    assert {stem: names.free(Path(stem).name) for stem in NAMED} == NAMED


def compared(name):
    """What `name` is to file systems as ZFS, APFS and NTFS may be: composed, decomposed, in capitals."""
    return {name, normalize("NFKC", name.lower()), normalize("NFD", name.upper())}


def test_names_of_answers_never_meet():
    chance = random.Random(0)
    pieces = ["a", "A", "é", "e\u0301", "ß", "ﬁ", "K", "\u212a", "故", "🗿", ".", " ", ".jpg", " (2)", " (3)"]
    pieces += ["con", ":", "\\", "\t", "\udcff", "results.csv", "x" * 120, "故" * 40]
    for _ in range(20):
        names, there = Names("results.csv"), {"results.csv"}
        for _ in range(50):
            name = names.free("".join(chance.choices(pieces, k=chance.randint(1, 4))))
            assert not set(name) & set('"*/:<>?\\|\t')
            assert name[0] not in ". "
            assert name[-1] not in ". "
            assert len(name.encode()) <= 251
            made = compared(name) | compared(f"{name}.jpg")
            assert not made & there
            there |= made


@pytest.mark.parametrize(
    "stems",
    [
        ["IMG"] * 10_000,
        ["img", "IMG", "Img"] * 1000,
        ["e\u0301", "é"] * 1000,
        [f"{'x' * 247}{number:04}" for number in range(1000)] * 2,
        [f"a ({number})" for number in range(2, 1000)] + ["a"] * 1000,
    ],
    ids=["alike", "case", "composed", "long", "numbers"],
)
def test_names_of_thousands_of_answers_need_few_candidates(stems, monkeypatch):
    tried = []
    take = Names._take
    monkeypatch.setattr(Names, "_take", lambda names, name: tried.append(name) or take(names, name))
    names = Names("results.csv")
    assert len({names.free(stem) for stem in stems}) == len(stems)
    assert len(tried) < 3 * len(stems)


def test_out_takes_photos_of_any_name(ask, built, tmp_path):
    names = ["results.csv.jpg", "Results.CSV.png", "results.csv", ".results.csv.tmp.jpg", "...jpg", "nul.png"]
    names += ["a.jpg.jpg", "a.png", "A.png", "\udcff.png", "12:30\n.png", "é.png", "e\u0301.png"]
    photos = [
        tmp_path / "photos" / name for name in [*names, "e\u0301" * 85, "🗿" * 63 + "xyz", "y" * 251 + ".jpg"]
    ]
    photos[0].parent.mkdir()
    for photo in photos:
        shutil.copyfile(built / "queries/2.png", photo)
    out = tmp_path / "out"
    code, _, errors = ask("query", *photos, "--top", 2, "--out", out, "--json")
    assert (code, errors) == (0, "")
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["query_path"] for row in rows] == [printable(photo) for photo in photos for _ in range(2)]
    folders = [path for path in out.iterdir() if path.is_dir()]
    assert len(folders) == len(photos)
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == sorted(
        ["results.csv", *(f"{folder.name}.jpg" for folder in folders)]
    )
    for folder in folders:
        assert sorted(path.name[:3] for path in folder.iterdir()) == ["01 ", "02 "]


@pytest.mark.parametrize(
    ("landmark", "photo", "copy"),
    [
        ("bridge", "1.jpg", "01 bridge 1.jpg"),
        ("故" * 85, "1.jpg", "01 " + "故" * 82 + ".jpg"),
        ("tower", "故" * 83 + ".jpeg", "01 tower " + "故" * 80 + ".jpeg"),
        ("tower", "1." + "x" * 253, "01 tower 1." + "x" * 244),
        ("tower", "x" * 255, "01 tower " + "x" * 246),
        ("Who? Where:", "a\tb.", "01 Who_ Where_ a_b"),
    ],
    ids=["as it is", "long landmark", "long photo", "long suffix", "no suffix", "not for Windows"],
)
def test_copies_of_results_have_names_that_a_file_system_takes(tmp_path, make_photo, landmark, photo, copy):
    path = Path("images", landmark, photo)
    make_photo(tmp_path / path, format="PNG")
    results = [Result(rank, 0, Photo(path.as_posix(), landmark), 0.5) for rank in (1, 2)]
    answer = Answer(landmark, {landmark: 1}, 0.5, results)
    (tmp_path / "out").mkdir()
    save(tmp_path / "out", "query", SimpleNamespace(root=tmp_path), tmp_path / path, answer)
    copies = sorted((tmp_path / "out/query").iterdir())
    assert [one.name for one in copies] == [copy, copy.replace("01", "02", 1)]
    assert all(one.read_bytes() == (tmp_path / path).read_bytes() for one in copies)


def test_a_photo_like_no_landmark_is_told_in_the_table(tmp_path, make_photo):
    make_photo(tmp_path / "1.png", format="PNG")
    answer = Answer(None, {}, 0.5, [Result(1, 0, Photo("1.png", "abbey"), 0.5)])
    (tmp_path / "out").mkdir()
    rows = save(tmp_path / "out", "1", SimpleNamespace(root=tmp_path), tmp_path / "1.png", answer)
    assert [dict(zip(RESULTS, row, strict=True))["predicted_class"] for row in rows] == [NO_CLASS]


def test_a_folder_too_deep_for_its_names_is_one_line(ask, tmp_path):
    deep = tmp_path.joinpath(*["x" * 100] * ((4080 - len(str(tmp_path))) // 101))
    photo = tmp_path / ("y" * 250 + ".png")
    shutil.copyfile("queries/0.png", photo)
    with pytest.raises(InputError, match=r"x: cannot be written \(File name too long\)$"):
        ask("query", photo, "--out", deep)


FORMULAS = ['=HYPERLINK("http://x")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1"]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_of_the_table_is_a_formula(tmp_path, make_photo, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    query = make_photo(Path(f"{name[0]}1.png"), format="PNG")
    Path("out").mkdir()
    answer = Answer(name, {name: 1}, 0.5, [Result(1, 0, Photo(query.as_posix(), name), 0.5)])
    [row] = save(Path("out"), "query", SimpleNamespace(root=Path()), query, answer)
    assert row[:3] == (f"'{query}", f"'{name}", 1)
    assert row[4:] == (f"'{query}", f"'{name}")
