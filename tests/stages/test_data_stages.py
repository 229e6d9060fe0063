"""The stages `create_csv` and `split`, on photos made for the purpose."""

import csv
import hashlib
import io
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from landmarks.photos import ground_truth
from stages import create_csv, split

ROOT = Path(__file__).parents[2]
IMAGES = Path("data/mine/images")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    IMAGES.mkdir(parents=True)
    set_parameters()


def set_parameters(**values):
    options = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    options["dataset"] = "mine"
    for name, value in values.items():
        section, _, key = name.rpartition("__")
        (options[section] if section else options)[key] = value
    Path("params.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")


def picture(seed, size=(96, 72)):
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def put(name, image, kind="JPEG", **save):
    path = IMAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **save)
    return path.as_posix()


def test_photos_that_links_bring_from_elsewhere_are_told_in_a_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for number in range(4):
        put(f"a/{number}.jpg", picture(number))
    Path(tmp_path / "own").mkdir()
    (IMAGES / "a/3.jpg").rename(tmp_path / "own/3.jpg")
    (IMAGES / "a/3.jpg").symlink_to(tmp_path / "own/3.jpg")
    (IMAGES / "a/2 again.jpg").symlink_to("2.jpg")  # rejected as a copy
    create_csv.main()
    [told] = [message for message in caplog.messages if "outside" in message]
    own = tmp_path.resolve() / "own/3.jpg"
    assert told == f"1 photo lies outside data/mine, by 1 link: data/mine/images/a/3.jpg -> {own}"
    assert len(rows("catalog.csv")) == 4


def rows(name):
    with Path("data", name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def parts():
    names = ("train", "val", "test", "index")
    return {row["image_path"]: part for part in names for row in rows(f"splits/{part}.csv")}


def pixel_copies(path):
    """Ways to keep the very pixels of the photo at `path` in another file."""
    image = Image.open(path)
    original = Path(path).read_bytes()
    sideways = Image.Exif()
    sideways[0x112] = 6

    def saved(image, kind, **save):
        file = io.BytesIO()
        image.save(file, kind, **save)
        return file.getvalue()

    yield "comment", original[:2] + b"\xff\xfe\x00\x09holiday" + original[2:]
    yield "trailing", original + b"maker's notes"
    yield "png", saved(image, "PNG")
    yield "tiff", saved(image, "TIFF", compression="tiff_lzw")
    yield "bmp", saved(image, "BMP")
    yield "webp", saved(image, "WEBP", lossless=True)
    yield "sideways", saved(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=sideways)
    yield "opaque", saved(image.convert("RGBA"), "PNG")


def test_photos_of_equal_pixels_are_copies_whatever_their_bytes():
    first = put("a/0.jpg", picture(0))
    names = []
    for name, content in pixel_copies(first):
        path = IMAGES / "b" / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        names.append(path.as_posix())
    other = put("b/resaved.jpg", Image.open(first), quality=40)
    create_csv.main()
    assert [row["image_path"] for row in rows("catalog.csv")] == [first, other]
    assert {row["path"]: row["reason"] for row in rows("rejected.csv")} == dict.fromkeys(
        sorted(names), f"the same photo, pixel for pixel, as {first}"
    )
    # Not the same pixels, and in another landmark: both stay, and are told of.
    assert [(row["image_path"], row["group"], row["elsewhere"]) for row in rows("near_copies.csv")] == [
        (first, "", other),
        (other, "", first),
    ]


def test_near_copies_are_found_among_what_is_left_when_copies_are_rejected():
    put("a/0.png", picture(0), "PNG")
    copies = [put("a/1.bmp", picture(0), "BMP"), put("a/2.tif", picture(0), "TIFF")]
    for seed in range(1, 5):
        put(f"b/{seed}.png", picture(seed), "PNG")
    one, other = put("c/1.jpg", picture(5)), put("c/2.jpg", picture(5), quality=30)
    put("d/1.png", picture(6), "PNG")
    create_csv.main()
    assert [row["path"] for row in rows("rejected.csv")] == copies
    assert [tuple(row.values()) for row in rows("near_copies.csv")] == [
        (one, "c", one, ""),
        (other, "c", one, ""),
    ]


def test_near_copies_across_landmarks_are_warned_of(caplog):
    put("a/0.jpg", picture(0))
    put("b/0.png", picture(0).resize((60, 40)), "PNG")
    put("b/1.jpg", picture(1))
    with caplog.at_level(logging.INFO):
        create_csv.main()
    assert (
        "2 photos are near-copies of photos of other landmarks, as data/mine/images/a/0.jpg is of "
        "data/mine/images/b/0.png; are they in the right folders? See data/near_copies.csv"
    ) in caplog.messages
    assert not any("groups" in message for message in caplog.messages)


@pytest.mark.parametrize("together", [True, False])
def test_the_split_keeps_near_copies_together_unless_told_not_to(caplog, together):
    groups = []
    for landmark in "ab":
        for seed in range(10):
            image = picture(100 * ord(landmark) + seed)
            one = put(f"{landmark}/{seed}.jpg", image, quality=90)
            groups.append({one, put(f"{landmark}/again {seed}.jpg", image.resize((48, 36)), quality=50)})
    set_parameters(split__near_copies="together" if together else "ignore")
    with caplog.at_level(logging.INFO):
        create_csv.main()
        split.main()
    assert "40 photos are near-copies, in 20 groups, see data/near_copies.csv" in caplog.messages
    part_of = parts()
    assert len(part_of) == 40
    apart = sum(len({part_of[path] for path in group}) > 1 for group in groups)
    assert (apart == 0) == together
    assert {row["group"] for row in rows("near_copies.csv")} == {min(group) for group in groups}


def test_the_split_is_the_same_under_other_names_and_hardly_changes_with_another_photo():
    def split_of(names):
        for name, seed in names.items():
            put(f"a/{name}.png", picture(seed), "PNG")
        create_csv.main()
        split.main()
        return {Path(path).stem: part for path, part in parts().items()}

    first = split_of({f"{seed:02}": seed for seed in range(20)})
    assert sorted(first.values()).count("index") == 2
    for path in IMAGES.rglob("*.png"):
        path.rename(path.with_stem(f"IMG_{path.stem}"))
    renamed = split_of({})
    assert renamed == {f"IMG_{name}": part for name, part in first.items()}
    more = split_of({"new": 99})
    assert sum(more[name] != part for name, part in renamed.items()) <= 4


def test_each_photo_is_catalogued_with_the_digest_of_its_file():
    path = put("Huế/1.jpg", picture(0))
    create_csv.main()
    [row] = rows("catalog.csv")
    assert row == {
        "image_path": path,
        "class_image": "Huế",
        "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
    }


def test_one_photo_alone_is_searched_and_a_landmark_of_two_has_a_query(caplog):
    for name, count in (("one", 1), ("two", 2), ("many", 10)):
        for place in range(count):
            put(f"{name}/{place}.jpg", picture(10 * count + place))
    create_csv.main()
    with caplog.at_level(logging.INFO):
        split.main()
    of = {
        name: sorted(part for path, part in parts().items() if f"/{name}/" in path) for name in ("one", "two")
    }
    assert of == {"one": ["index"], "two": ["index", "test"]}
    assert "2 landmarks are too small for the shares" in caplog.text
    assert caplog.messages[-1] == "train 6, val 1, test 3, index 3"


def test_photos_of_more_pixels_than_are_set_are_rejected():
    put("a/0.jpg", picture(0))
    large = put("a/1.png", picture(1, (96, 73)), "PNG")
    set_parameters(create_csv__max_pixels=96 * 72)
    create_csv.main()
    assert [tuple(row.values()) for row in rows("rejected.csv")] == [
        (large, "96x73 is more than create_csv.max_pixels (6912)")
    ]


NEAR = {
    "resized": lambda image: (image.resize((48, 36)), "JPEG", {}),
    "saved again": lambda image: (image, "JPEG", {"quality": 30}),
    "grey": lambda image: (image.convert("L"), "PNG", {}),
}


@pytest.mark.parametrize("near", NEAR.values(), ids=NEAR)
def test_near_copies_in_landmarks_that_are_made_one_are_a_group(near):
    groups = []
    for seed, names in enumerate(
        [("Hu\u1ebf", "Hue\u0302\u0301"), ("Sapa", "sapa "), ("故宫", "故\u200b宫")]
    ):
        image = picture(seed)
        again, kind, save = near(image)
        groups.append([put(f"{names[0]}/1.jpg", image), put(f"{names[1]}/2.jpg", again, kind, **save)])
    set_parameters(create_csv__merge_alike=True)
    create_csv.main()
    assert {row["image_path"]: (row["group"], row["elsewhere"]) for row in rows("near_copies.csv")} == {
        path: (min(group), "") for group in groups for path in group
    }


def judge(query, found, **parameters):
    truth = {ground_truth.Query(query, None): {found: "good"}}
    ground_truth.write(IMAGES.parent / "ground_truth.csv", truth, with_checksum=False)
    set_parameters(
        split__method="ground_truth", split__train=0.5, split__val=0.3, split__index=0, **parameters
    )


def test_beside_a_ground_truth_copies_stay_and_near_copies_are_learned_from_together(caplog):
    groups = []
    for seed in range(12):
        one = put(f"a/{seed}.jpg", picture(seed), quality=90)
        groups.append({one, put(f"a/again {seed}.jpg", picture(seed).resize((48, 36)))})
    query, copy = put("b/query.jpg", picture(99)), put("b/same.jpg", picture(99))
    judge(query, copy)
    create_csv.main()
    split.main()
    assert {row["image_path"] for row in rows("catalog.csv")} == {query, copy}.union(*groups)
    assert [row["image_path"] for row in rows("splits/test.csv")] == [query]
    assert "to check it by" not in caplog.text
    for part in ("train", "val"):
        learned = {row["image_path"] for row in rows(f"splits/{part}.csv")}
        assert {len(group & learned) for group in groups} == {0, 2}


@pytest.mark.parametrize("judged", [False, True])
def test_the_split_hears_the_seed_and_the_contents_but_no_names(judged):
    for seed in range(16):
        put(f"a/{seed}.png", picture(seed), "PNG")
    query, found = (put(f"b/{seed}.png", picture(seed), "PNG") for seed in (98, 99))

    def learned_from(seed):
        judge(query, found, seed=seed) if judged else set_parameters(seed=seed)
        create_csv.main()
        split.main()
        contents = {row["image_path"]: row["sha256"] for row in rows("catalog.csv")}
        return {contents[row["image_path"]] for row in rows("splits/train.csv") if "/a/" in row["image_path"]}

    first = learned_from(0)
    assert learned_from(1) != first
    for path in (IMAGES / "a").iterdir():
        path.rename(path.with_stem(f"IMG_{99 - int(path.stem)}"))
    assert learned_from(0) == first
