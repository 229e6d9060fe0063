import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from landmarks import files
from landmarks.demo import buildings, drawing
from landmarks.demo.buildings import LANDMARKS
from landmarks.demo.modelling import Face, Model, ring


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "images"
    drawing.draw(folder, classes=3, photos=2, seed=7, workers=2)
    return folder


def test_a_folder_per_landmark_and_a_numbered_file_per_photo(drawn):
    names = list(LANDMARKS)[:3]
    assert set(contents(drawn)) == {f"{name}/{number:03}.jpg" for name in names for number in range(2)}
    assert [path.name for path in drawn.parent.iterdir()] == ["images"]


def test_photos_decode_and_are_about_320_by_240(drawn):
    for path in drawn.rglob("*.jpg"):
        with Image.open(path) as image:
            image.load()
            assert image.mode == "RGB"
            assert tuple(sorted(image.size)) in {(240, 320), (214, 320)}


def test_bytes_depend_neither_on_the_number_of_workers_nor_on_what_else_is_drawn(drawn, tmp_path):
    drawing.draw(tmp_path / "images", classes=2, photos=1, seed=7, workers=1)
    again = contents(tmp_path / "images")
    assert len(again) == 2
    assert again.items() <= contents(drawn).items()


def test_another_seed_draws_other_photos_and_replaces_the_folder(tmp_path):
    (tmp_path / "images" / "stale").mkdir(parents=True)
    (tmp_path / "images" / "stale" / "000.jpg").touch()
    photos = []
    for seed in (1, 2):
        drawing.draw(tmp_path / "images", classes=1, photos=1, seed=seed, workers=1)
        photos.append(contents(tmp_path / "images"))
    assert photos[0].keys() == photos[1].keys() == {"twin_spire_cathedral/000.jpg"}
    assert photos[0] != photos[1]


@pytest.mark.parametrize(("cores", "processes"), [(3, 3), (61, 61), (62, 61), (256, 61)])
def test_there_are_no_more_processes_than_windows_can_wait_for(tmp_path, monkeypatch, cores, processes):
    def pool(workers, *_):
        raise InterruptedError(workers)

    monkeypatch.setattr(drawing, "CORES", cores)
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", pool)
    with pytest.raises(InterruptedError, match=f"^{processes}$"):
        drawing.draw(tmp_path / "images", classes=1, photos=1)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept there")
def test_photos_that_are_being_drawn_are_not_taken_for_left_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))
    monkeypatch.setattr(drawing, "_draw_one", lambda path, *_: files.sweep() or path.touch())
    Path("data/demo/images/old").mkdir(parents=True)
    drawing.draw(Path("data/demo/images"), classes=2, photos=3, workers=2)
    assert len(list(Path("data/demo/images").glob("*/*.jpg"))) == 6
    assert [path.name for path in Path("data/demo").iterdir()] == ["images"]


def test_a_failure_leaves_the_old_folder_alone(drawn, monkeypatch):
    before = contents(drawn)
    monkeypatch.setattr(drawing, "LANDMARKS", {"unheard_of": None})
    with pytest.raises(ValueError, match="unheard_of"):  # the workers know no such landmark
        drawing.draw(drawn, classes=1, photos=1, workers=1)
    assert [path.name for path in drawn.parent.iterdir()] == ["images"]
    assert contents(drawn) == before


def test_a_few_photos_are_stored_turned_and_their_tag_turns_them_back(tmp_path):
    photos = [(name, number) for name in LANDMARKS for number in range(30)]
    turned = [photo for photo in photos if drawing.stored_as(drawing.generator(*photo, 0))[1]]
    assert 10 <= len(turned) <= 40
    name, number = turned[0]
    drawing._draw_one(tmp_path / "turned.jpg", name, number, 0)
    rng = drawing.generator(name, number, 0)
    orientation, _ = drawing.stored_as(rng)
    with Image.open(tmp_path / "turned.jpg") as stored:
        assert stored.getexif()[274] == orientation != 1
        upright = np.asarray(ImageOps.exif_transpose(stored), float)
    expected = drawing.photograph(buildings.build(name, 0), rng)
    assert upright.shape == expected.shape
    assert np.abs(upright - expected).mean() < 12


def camera() -> drawing.Camera:
    """Ten metres in front of y = 0 and two above the ground, looking along y."""
    return drawing.look_at(np.array([0.0, -10, 2]), np.array([0.0, 0, 2]), 100.0, (201, 101))


def test_projection_is_the_pinhole_camera_worked_by_hand():
    points = np.array([(0, 0, 2), (1, 0, 2), (1, 10, 4), (-5, 0, 1)], float)
    x, y, depth = drawing.project(camera(), points)
    # right of the middle by focal * side / depth, below it by focal * (2 - z) / depth
    np.testing.assert_allclose(x, [100, 110, 105, 50])
    np.testing.assert_allclose(y, [50, 50, 40, 60])
    np.testing.assert_allclose(depth, [10, 10, 20, 10])


def wall(y: float, half: float, *, from_behind: bool = False) -> Face:
    outline = np.array([(-half, y, 0), (half, y, 0), (half, y, 2 * half), (-half, y, 2 * half)])
    return Face.on(outline[[1, 0, 3, 2]] if from_behind else outline, 0)


def test_the_nearer_wall_hides_the_farther_and_backs_are_not_seen():
    faces = [wall(0, 2), wall(10, 8), wall(-5, 1, from_behind=True)]
    nearness, seen = drawing.rasterise(camera(), drawing.gather(faces, 0))
    assert seen[50, 100] == 0
    assert nearness[50, 100] == pytest.approx(1 / 10)
    assert seen[50, 130] == 1  # 30 pixels aside is 3 m at the near wall and 6 m at the far one
    assert nearness[50, 130] == pytest.approx(1 / 20)
    assert seen[90, 100] == 3  # the ground: 40 pixels down, 2 m below the eye, so 5 m off
    assert nearness[90, 100] == pytest.approx(1 / 5)
    assert seen[0, 0] == -1
    assert nearness[0, 0] == 0


def test_depth_on_a_slanted_face_is_that_of_the_line_of_sight():
    # The plane y = x / 2; the pixel 50 to the right looks along (0.5, 1, 0): it meets it at depth 40 / 3.
    face = Face.on(np.array([(-16, -8, 0), (16, 8, 0), (16, 8, 9), (-16, -8, 9)], float), 0)
    nearness, seen = drawing.rasterise(camera(), drawing.gather([face], 0))
    assert seen[50, 150] == 0
    assert 1 / nearness[50, 150] == pytest.approx(40 / 3, rel=1e-5)


def test_a_wall_casts_a_shadow_away_from_the_sun():
    faces = drawing.gather([wall(0, 4), wall(0, 4, from_behind=True)], 0)
    sun = np.array([0, -1, 1]) / np.sqrt(2)  # so the shadow is as long as the wall is high, 8 m
    where = np.array([(0, 4, 0), (0, 7, 0), (0, 9, 0), (0, -2, 0), (6, 4, 0)], np.float32).T[:, None]
    assert drawing.shaded(where, faces, sun, 10).tolist() == [[True, True, False, False, False]]


def test_faces_look_outwards():
    box = Model([], np.random.default_rng(0), LANDMARKS["clock_tower"][2])
    box.box(3, 4, 0, 2, 1, 5)
    box.drum(3, 4, 0, 2, 5, box.stone)
    for face in box.faces:
        assert (face.outline.mean(axis=0) - (3, 4, 2.5)) @ face.normal > 0
        assert (face.outline - face.origin) @ face.normal == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(ring(0, 0, 0, 2, 1)[:2], [(-2, -1, 0), (2, -1, 0)])


def test_every_landmark_looks_different_from_every_other():
    photos = {}
    for name in LANDMARKS:
        scene = buildings.build(name, 0)
        photos[name] = drawing.photograph(scene, np.random.default_rng(5)).astype(float)
        assert np.ptp(photos[name]) > 60
    for one, other in combinations(photos, 2):
        assert np.abs(photos[one] - photos[other]).mean() > 4, (one, other)
