import logging
import os
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from landmarks.errors import InputError
from landmarks.photos import folders

ROOT = Path(__file__).parents[2]
IMAGES = Path("data/x/images")
EXPECTED = "expected one folder of photos per landmark, as in data/x/images/<landmark>/photo.jpg"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    IMAGES.mkdir(parents=True)


def put(*names):
    for name in names:
        (IMAGES / name).parent.mkdir(parents=True, exist_ok=True)
        (IMAGES / name).touch()


def link(name, target):
    (IMAGES / name).parent.mkdir(parents=True, exist_ok=True)
    (IMAGES / name).symlink_to(target)


def bind(path):
    """A socket at `path`, which is too long a name for one if it is absolute."""
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def outside(path):
    Path("pipe").exists() or os.mkfifo("pipe")
    path.symlink_to(Path("pipe").absolute())


def loop(path):
    path.symlink_to(path.name)


def not_utf8(path):
    try:
        path.with_name(os.fsdecode(path.name.encode() + b"\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")


# How each is made, its name after that of the path, and what is said of it.
OBSTACLES = {
    "gone": (
        lambda path: path.symlink_to("gone"),
        "",
        "a link to gone, which is not there; mend or delete it",
    ),
    "below a file": (
        lambda path: path.symlink_to("/dev/null/x"),
        "",
        "a link to /dev/null/x, which is not there; mend or delete it",
    ),
    "loop": (loop, "", "a link that leads to itself; delete it"),
    "pipe": (os.mkfifo, "", "a pipe, at which DVC waits for ever; move it away"),
    "link to a pipe": (outside, "", "a pipe, at which DVC waits for ever; move it away"),
    "socket": (bind, "", "a socket, at which DVC stops; move it away"),
    "device": (
        lambda path: path.symlink_to("/dev/zero"),
        "",
        "a device, which DVC may read for ever; move it away",
    ),
    "not UTF-8": (not_utf8, "\\xe9.jpg", "its name is not UTF-8, at which DVC stops; rename it"),
    "ignore": (
        lambda path: (path.parent / ".dvcignore").touch(),
        ".dvcignore",
        "DVC refuses it among data; move it away",
    ),
}
PLACES = [
    "",
    "a/",
    "a/b c/",
    "a/.hidden/",
    "@eaDir/photo.jpg/",
    ".hidden/故宫/",
    "故宫/",
    "../",
    "../raw/",
    "a/lost+found/",
]


@pytest.mark.parametrize("seed", range(4))
def test_all_that_is_in_the_way_is_named_wherever_it_lies_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    put("a/1.jpg", "a/b c/2.jpg", "故宫/3.jpg", "a/[4] ${x}.jpg")
    expected = {}
    for number, (make, name, reason) in enumerate(OBSTACLES.values()):
        place = rng.choice(PLACES)
        path = IMAGES / f"{place}{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        shown = os.path.normpath(path.parent / name if name.startswith(".") else f"{path}{name}")
        expected[shown] = reason
    checked = folders.check("x")
    assert checked.obstacles == expected
    assert str(checked).endswith(f" in 2 landmark folders, {len(expected)} things in the way")


@pytest.mark.parametrize(
    "name", [".git/x", ".hg/x", "a/__pycache__/x", "a/photo.tmp", "a/photo.partial", "b.tmp/x"]
)
def test_what_dvc_does_not_look_at_is_not_in_the_way(name):
    put("a/1.jpg", name)
    (IMAGES / name).unlink()
    os.mkfifo(IMAGES / name)
    assert folders.check("x").obstacles == {}


def test_it_knows_what_dvcignore_says():
    rules = (ROOT / ".dvcignore").read_text().split()
    known = {"__pycache__", *(f"*{suffix}" for suffix in folders.PASSED_OVER_SUFFIXES)}
    assert known == {rule for rule in rules if not rule.startswith("/")}


@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c d", "故宫"])
def test_a_link_to_a_folder_below_the_images_is_in_the_way(place):
    put("a/1.jpg", "a/b/2.jpg", "z/3.jpg")
    link(f"{place}/linked", IMAGES.absolute() / "z")
    assert folders.check("x").obstacles == {
        f"data/x/images/{place}/linked": "a link to a folder, in which DVC sees no change; move or copy the "
        "folder here, or make data/x/images the link"
    }


@pytest.mark.parametrize("place", ["data/x", "data/x/images"])
def test_the_dataset_or_its_images_may_be_a_link(place):
    put("a/1.jpg", "b/2.jpg")
    Path(place).rename("elsewhere")
    Path(place).symlink_to(Path("elsewhere").absolute())
    checked = folders.check("x")
    assert (checked.files, checked.landmarks, checked.obstacles) == (2, 2, {})


@pytest.mark.parametrize("name", ["a/photo.jpg", "a/.hidden", ".folder", "@eaDir/folder", "../raw"])
def test_links_to_files_and_links_that_are_left_out_are_not_in_the_way(name):
    put("a/1.jpg", "b/2.jpg")
    folder = name.rpartition("/")[2] in (".folder", "folder", "raw", ".hidden")
    link(name, (IMAGES / "b" if folder else IMAGES / "b/2.jpg").absolute())
    assert folders.check("x").obstacles == {}


@pytest.mark.parametrize("place", ["data/x", "data/x/images"])
@pytest.mark.parametrize("target", ["gone", "images", "x"])
def test_a_dataset_that_is_a_link_to_nowhere_is_said_once(place, target):
    IMAGES.rmdir()
    if place == "data/x":
        Path("data/x").rmdir()
    Path(place).symlink_to(target)
    reason = "a link that leads to itself; delete it"
    if Path(place).name != target:
        reason = f"a link to {target}, which is not there; mend or delete it"
    assert folders.check("x").obstacles == {place: reason}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (None, "no such folder; "),
        ([], "no class folder in it; "),
        (["loose.jpg"], "no class folder in it; "),
        ([".hidden/1.jpg", "@eaDir/2.jpg", "Thumbs.db"], "no class folder in it; "),
        (["a/.hidden", "b/Thumbs.db"], "no file in its landmark folders; "),
    ],
)
def test_a_dataset_without_photos_is_in_the_way_but_for_one_that_is_drawn(names, reason):
    put(*(names or []))
    if names is None:
        IMAGES.rmdir()
    assert folders.check("x").obstacles == {"data/x/images": reason + EXPECTED}
    drawn = folders.check("x", drawn=True)
    assert drawn.obstacles == {}
    assert str(drawn).endswith(", nothing in the way")


def test_a_drawn_dataset_is_checked_as_any_other_once_it_is_there():
    put("a/1.jpg")
    os.mkfifo(IMAGES / "a/pipe")
    assert list(folders.check("x", drawn=True).obstacles) == ["data/x/images/a/pipe"]


def test_one_line_says_how_much_there_is():
    put("a/1.jpg", "a/b/2.jpg", "c/3.png", "c/.hidden", "loose.jpg")
    assert str(folders.check("x")) == "data/x/images: 3 files in 2 landmark folders, nothing in the way"
    os.mkfifo(IMAGES / "c/pipe")
    assert str(folders.check("x")) == "data/x/images: 4 files in 2 landmark folders, 1 thing in the way"
    assert str(folders.check("y", drawn=True)) == "data/y/images: not drawn yet, nothing in the way"


def test_folders_and_files_that_cannot_be_read_are_in_the_way_where_they_hold_photos(monkeypatch):
    put("a/1.jpg", "a/shut/2.jpg", "a/.shut/3.jpg", "@eaDir/shut/4.jpg", "b/locked.jpg", ".hidden/locked.jpg")
    scans, may = os.scandir, os.access

    def refuse(path="."):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scans(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in path and may(path, mode))
    assert folders.check("x").obstacles == {
        "data/x/images/a/shut": "cannot be read (Permission denied)",
        "data/x/images/b/locked.jpg": "cannot be read (Permission denied)",
        "data/x/images/.hidden/locked.jpg": "cannot be read (Permission denied)",
    }


@pytest.mark.parametrize("shut", ["data/x", "data/x/images"])
def test_a_dataset_that_cannot_be_read_is_said_once(monkeypatch, shut):
    put("a/1.jpg")
    scans = os.scandir

    def refuse(path="."):
        if str(path) == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return scans(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert folders.check("x").obstacles == {shut: "cannot be read (Permission denied)"}


def test_paths_are_spelled_so_that_they_can_be_seen_and_copied():
    for name, shown in [
        ("line\nbreak", "line\\nbreak"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("故宫", "故宫"),
    ]:
        put(f"{name}/1.jpg")
        os.mkfifo(IMAGES / name / "pipe")
        assert f"data/x/images/{shown}/pipe" in folders.check("x").obstacles


SYSTEM = [
    *("@eaDir/photo.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/1.jpg", "$RECYCLE.BIN/1.jpg", "lost+found/1.jpg"),
    *("__MACOSX/1.jpg", ".AppleDouble/1.jpg", ".@__thumb/1.jpg", ".Trashes/1.jpg", ".picasaoriginals/1.jpg"),
    *("@EADIR/1.jpg", "$Recycle.Bin/1.jpg", "#Recycle/1.jpg", "System Volume Information/1.jpg"),
    *("RECYCLER/1.jpg", "FOUND.000/1.jpg", "@Recycle/1.jpg", "@Recently-Snapshot/1.jpg", "#snapshot/1.jpg"),
    *("Network Trash Folder/1.jpg", "Temporary Items/1.jpg", "LOST.DIR/1.jpg", "~snapshot/1.jpg"),
    *("My Catalog Previews.lrdata/1.jpg", "trashbox/1.jpg", "__pycache__/1.jpg", "old.tmp/1.jpg"),
    *("Thumbs.db", "thumbs.DB", "ehthumbs.db", "desktop.ini", "Desktop.ini", ".DS_Store", "._photo.jpg"),
    *("Picasa.ini", ".picasa.ini", "Icon\r", "SYNOPHOTO_THUMB_XL.jpg", "SYNOFILE_THUMB_M.png"),
    *("ZbThumbnail.info", "photo.jpg.tmp", "photo.jpg.partial"),
]  # fmt: skip
OF_USERS = [
    *("eaDir/1.jpg", "#1 tower/1.jpg", "@home/1.jpg", "Recycle/1.jpg", "lost and found/1.jpg", "tmp/1.jpg"),
    *("thumbs/1.jpg", "System/1.jpg", "MACOSX/1.jpg", "$/1.jpg", "iconcache.db/1.jpg", "lrdata/1.jpg"),
    *("Thumbs.jpg", "desktop.jpg", "_photo.jpg", "Icon", "tmp.jpg", "SYNO.jpg", "@eaDir.jpg", "lost.dir"),
]  # fmt: skip


@pytest.mark.parametrize("place", ["", "a/", "a/b/"])
def test_what_systems_leave_is_no_landmark_and_no_photo_and_is_said_once(place, caplog):
    caplog.set_level(logging.INFO)
    put("a/1.jpg", *(place + name for name in SYSTEM + OF_USERS))
    kept = sorted((IMAGES / name).as_posix() for name in {"a/1.jpg", *(place + name for name in OF_USERS)})
    assert [path.as_posix() for path in folders.photo_files(IMAGES)] == kept
    assert sorted(path.as_posix() for path in folders.visible_files(IMAGES)) == kept
    [line] = caplog.messages
    assert line.startswith("data/x/images: left out, as hidden or made by a system: ")
    assert line.endswith(folders.check("x").left_out)
    if not place:
        landmarks = {name.partition("/")[0] for name in SYSTEM if "/" in name} - {"old.tmp"}
        assert all(f"{folders.escaped(name)}/ (1)" in line for name in landmarks | {"*.tmp"})


def test_the_line_counts_and_names_whole_landmark_folders_first(caplog):
    caplog.set_level(logging.INFO)
    put("a/1.jpg", "Recycled/1.jpg", ".kept back/1.jpg", *(f"a/{n}/@eaDir/1.jpg" for n in range(5)))
    put(*(f"a/._{n}.jpg" for n in range(7)), *(f"a/.{n}" for n in range(20)), "a/Thumbs.db")
    folders.photo_files(IMAGES)
    first, _, rest = caplog.messages[0].partition("system: ")[2].partition(", ._* (7), ")
    assert first == ".kept back/ (1), Recycled/ (1)"
    assert rest == "@eaDir/ (5), .0 (1), .1 (1), .10 (1), .11 (1), .12 (1), .13 (1), others (15)"


def test_nothing_is_said_where_nothing_is_left_out(caplog):
    caplog.set_level(logging.INFO)
    put("a/1.jpg", "b/2.jpg")
    folders.photo_files(IMAGES)
    assert caplog.messages == []
    assert folders.check("x").left_out == ""


def test_several_folders_that_cannot_be_used_are_counted():
    put("z/1.jpg")
    for name in ("a", "b", "c"):
        link(name, "z")
    with pytest.raises(InputError, match=r"^data/x/images/a: a link .* \(and 2 more: `landmarks check`\)$"):
        folders.photo_files(IMAGES)


def outside_line():
    """What is said of the photos, and the root of the repository as `~`."""
    photos = [path.as_posix() for path in folders.photo_files(IMAGES)]
    return folders.outside(IMAGES, photos).replace(os.path.realpath("."), "~")


@pytest.mark.parametrize("place", ["data/x", "data/x/images"])
@pytest.mark.parametrize("to", ["elsewhere", "data/other", "data/x-large", "thư mục"])
@pytest.mark.parametrize("relative", [False, True])
def test_photos_of_a_dataset_that_is_a_link_are_told_with_the_link(place, to, relative):
    put("a/1.jpg", "a/2.jpg", "b/c/3.jpg")
    Path(place).rename(to)
    start = Path(place).absolute().parent
    Path(place).symlink_to(os.path.relpath(to, start) if relative else Path(to).absolute())
    assert outside_line() == f"3 photos lie outside data/x, by 1 link: {place} -> ~/{to}"


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, ""),
        (1, "1 photo lies outside data/x, by 1 link: data/x/images/a/0.jpg -> ~/own/0.jpg"),
        (
            3,
            "3 photos lie outside data/x, by 3 links: data/x/images/a/0.jpg -> ~/own/0.jpg, "
            "data/x/images/a/1.jpg -> ~/own/1.jpg, data/x/images/a/2.jpg -> ~/own/2.jpg",
        ),
        (
            265,
            "265 photos lie outside data/x, by 265 links: data/x/images/a/0.jpg -> ~/own/0.jpg, "
            "data/x/images/a/1.jpg -> ~/own/1.jpg, data/x/images/a/10.jpg -> ~/own/10.jpg and 262 more",
        ),
    ],
)
def test_photos_that_are_links_out_of_the_dataset_are_counted_and_the_first_are_named(count, told):
    put("a/photo.jpg", "b/1.jpg", "b/2.jpg")
    Path("own").mkdir()
    for number in range(count):
        Path(f"own/{number}.jpg").touch()
        link(f"a/{number}.jpg", Path(f"own/{number}.jpg").absolute())
    assert outside_line() == told


def test_a_link_through_others_is_told_with_where_it_ends():
    put("b/1.jpg")
    for name in ("data/y", "own", "far"):
        Path(name).mkdir()
    Path("far/1\u202e.jpg").touch()
    Path("own/1.jpg").symlink_to(Path("far/1\u202e.jpg").absolute())
    IMAGES.rename("data/y/images")
    IMAGES.symlink_to("../y/images")
    link("a/1.jpg", Path("own/1.jpg").absolute())
    assert outside_line() == (
        "2 photos lie outside data/x, by 2 links: data/x/images/a/1.jpg -> ~/far/1\\u202e.jpg, "
        "data/x/images -> ~/data/y/images"
    )


def in_cache():
    """As `dvc checkout` leaves a photo with `cache.type symlink`."""
    cached = Path("cache/files/md5/0a/" + "1b" * 15)
    cached.parent.mkdir(parents=True)
    cached.touch()
    link("a/2.jpg", cached.absolute())


def inside():
    IMAGES.rename("data/x/raw")
    IMAGES.symlink_to("raw")


def back_inside():
    """`images` leads out, and a photo there back in."""
    IMAGES.rename("elsewhere")
    IMAGES.symlink_to(Path("elsewhere").absolute())
    Path("data/x/2.jpg").touch()
    Path("elsewhere/a/1.jpg").unlink()
    link("a/1.jpg", Path("data/x/2.jpg").absolute())


def whole_data():
    Path("data").rename("disk")
    Path("data").symlink_to("disk")


@pytest.mark.parametrize(
    "made", [in_cache, inside, back_inside, whole_data, lambda: link("b/2.jpg", "../a/1.jpg")]
)
def test_nothing_is_said_of_links_that_stay_in_the_dataset_and_of_those_of_dvc(made):
    put("a/1.jpg")
    made()
    assert outside_line() == ""


AROUND = {".": "images", "..": "x/images", "../..": "data/x/images"}


@pytest.mark.parametrize(("target", "named"), AROUND.items())
def test_images_that_are_a_folder_around_the_link_itself_are_refused(target, named):
    Path("data/x/raw").mkdir()
    Path("data/x/raw/1.jpg").touch()
    IMAGES.rmdir()
    IMAGES.symlink_to(target)
    with pytest.raises(
        InputError, match=rf"^data/x/images/{named}: a link to a folder, in which DVC sees no"
    ):
        folders.photo_files(IMAGES)


def test_visible_files_follows_links_but_none_that_leads_back():
    put("a/1.jpg")
    link("a/up", "..")
    link("a/self", ".")
    link("b", "a")
    found = [path.as_posix() for path in folders.visible_files(IMAGES / "b")]
    assert found == ["data/x/images/b/1.jpg"]


COMPOSED = ["Huế", "Chùa Một Cột", "Ñandú", "Å", "한강"]
ALIKE = [
    *((unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)) for name in COMPOSED),
    *(("Sapa", "sapa"), ("Sapa", "sapa "), (" Sapa", "SAPA"), ("Straße", "STRASSE"), ("ΣΊΣΥΦΟΣ", "Σίσυφος")),
    *(("Ha Long", "Ha  Long"), ("Ha Long", "Ha\u00a0Long"), ("Ha Long", "Ha\u3000long"), ("H L", "H\tL")),
    *(("故宫", "故宫\u200b"), ("故宫", "\ufeff故宫"), ("Hà Nội", "Hà\u200d Nội"), ("soft", "so\u00adft")),
    *(("Tower 1", "Ｔｏｗｅｒ １"), ("ガ", "ｶﾞ"), ("file", "ﬁle"), ("1 mhz", "1 ㎒")),
    *(("right", "right\u200e"), ("❤", "❤\ufe0f")),
]  # fmt: skip
APART = [
    *("Hue", "Huế", "Huê", "Hoà", "Hòa", "Hoa", "Sa Pa", "Sapa", "Sa-Pa", "Sa_Pa", "Sappa", "故宫", "故宮"),
    *("tower1", "tower 1", "tower-1", "tower I", "а", "a", "ı", "I", "1", "01", "x,y", "x y", "x.", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), ALIKE, ids=ascii)
def test_names_that_are_plainly_one_are_alike(first, second):
    assert first != second
    assert folders.alike({first: 1, second: 2, "other": 3}) == [[second, first]]


def test_names_that_can_be_told_apart_are_not_alike():
    assert folders.alike(dict.fromkeys(APART, 1)) == []
    assert folders.alike({}) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_name_of_most_photos_is_first_and_of_equals_the_first_by_code_point(seed):
    rng = np.random.default_rng(seed)
    variants = ["{}", " {}", "{} ", "{}\u200b", "\u00a0{}"]
    names = [variant.format(name) for name in ("hue", "sapa", "故宫") for variant in variants]
    counts = {name: int(rng.integers(1, 4)) for name in rng.permutation(names).tolist()}
    groups = folders.alike(counts)
    assert sorted(len(group) for group in groups) == [5, 5, 5]
    for group in groups:
        most = max(counts[name] for name in group)
        assert group[0] == min(name for name in group if counts[name] == most)


def test_alike_names_are_warned_of_with_what_tells_them_apart():
    put("Sapa/1.jpg", "Sapa/2.jpg", "sapa /3.jpg", "Hu\u1ebf/4.jpg", "Hue\u0302\u0301/5.jpg", "other/6.jpg")
    if len(list(IMAGES.iterdir())) < 5:
        pytest.skip("this file system takes these names for one")
    rest = " are alike, but landmarks of their own unless create_csv.merge_alike is true"
    assert folders.check("x").warnings == [
        "data/x/images: 'Hue\u0302\u0301' = 'Hue\\u0302\\u0301' (1 file) and "
        "'Hu\u1ebf' = 'Hu\\u1ebf' (1 file)" + rest,
        "data/x/images: 'Sapa' (2 files) and 'sapa ' (1 file)" + rest,
    ]


def test_an_empty_landmark_is_warned_of():
    put("a/1.jpg", "b/.hidden", "c/d/Thumbs.db")
    checked = folders.check("x")
    assert checked.warnings == [f"data/x/images/{name}: no file in this landmark folder" for name in "bc"]
    assert checked.obstacles == {}
